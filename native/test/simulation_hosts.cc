// What hosts do: writes of any size and alignment, zeroes, trims, reads, flushes.
#include <algorithm>
#include <cstring>
#include <utility>

#include "test/awaited.h"
#include "test/simulation.h"

namespace flashlun {

Volume& Simulation::Handle(const SimVolume& volume) { return handles_[volume.id - volumes_[0].id]; }

bool Simulation::IsChain(const SimVolume& volume, size_t track, uint32_t sub) const {
  return &volume <= &volumes_[1] && track == kChainTrack && sub == kChainSub;
}

bool Simulation::Busy(const Span& span) {
  for (uint32_t i = 0; i < span.count; ++i)
    if (At(span, i).busy || IsChain(*span.volume, span.track, span.first + i)) return true;
  return false;
}

// One span, or two that meet at the border of a leaf.
bool Simulation::PickSpans(std::vector<Span>* spans) {
  const bool hot = hot_ && rng_() % 4 != 0;
  SimVolume& volume = volumes_[hot ? rng_() % 2 * 2 : rng_() % volumes_.size()];
  if (!hot && rng_() % 6 == 0) {
    const auto before = static_cast<uint32_t>(1 + rng_() % kSubsPerTrack);
    const auto after = static_cast<uint32_t>(1 + rng_() % (kSubsPerTrack - 1));
    *spans = {{&volume, 1, kSubsPerTrack - before, before}, {&volume, 2, 0, after}};
  } else {
    const size_t track = hot ? 0 : rng_() % volume.used.size();
    const bool whole = rng_() % 4 == 0;
    const auto first = whole ? 0 : static_cast<uint32_t>(rng_() % kSubsPerTrack);
    const auto count =
        whole ? kSubsPerTrack
              : static_cast<uint32_t>(1 + rng_() % std::min(4u, kSubsPerTrack - first));
    *spans = {{&volume, track, first, count}};
  }
  return std::none_of(spans->begin(), spans->end(), [this](const Span& span) {
    return span.volume->used[span.track] >= span.volume->tracks || Busy(span);
  });
}

// A quiet sub-block about whose content little is uncertain.
bool Simulation::PickPart(Part* part) {
  std::vector<Span> spans;
  if (!PickSpans(&spans)) return false;
  const Span& span = spans.front();
  *part = {span.volume, span.track, span.first, {}};
  part->patch.first = static_cast<uint32_t>(rng_() % (kSubBytes / 8 - 1) * 8);
  part->patch.bytes = static_cast<uint32_t>(8 + rng_() % ((kSubBytes - part->patch.first) / 8) * 8);
  part->patch.bytes = std::min(part->patch.bytes, kSubBytes - part->patch.first);
  const Version now = At(span, 0).Candidates();
  return now.live.size() <= 4 && now.crash.size() <= 4;
}

void Simulation::HostFiber(int operations) {
  OpSlot* slot = store_->AcquireSlot();
  for (int i = 0; i < operations && failure_.empty(); ++i) {
    const uint64_t kind = rng_() % 20;
    if (kind < 9)
      DoWrite(*slot);
    else if (kind < 11)
      DoWritePart(*slot);
    else if (kind < 13)
      DoWriteHalves(*slot);
    else if (kind < 15)
      DoZero(*slot);
    else if (kind < 16)
      DoZeroPart(*slot);
    else
      DoRead(*slot);
  }
  store_->ReleaseSlot(slot);
  --hosts_running_;
}

// After the answer to an operation on whole sub-blocks.
void Simulation::Answered(const std::vector<Span>& spans, const Status& status, const char* what) {
  if (!Expected(status, what, spans.front().volume)) return;
  // A pool that is full has changed nothing. What a failing disk did nobody knows. Zeroes over two
  // tracks are promised less: a T0 between the two can make them need more than they counted.
  const bool whole = spans.size() == 1 || std::strcmp(what, "write") == 0;
  const bool unchanged = status.code() == Code::kNoSpace && !faulty_ && whole;
  for (const Span& span : spans) {
    for (uint32_t i = 0; i < span.count; ++i) {
      if (status.ok())
        At(span, i).Acknowledge();
      else if (unchanged)
        At(span, i).Refuse();
      else
        At(span, i).Fail();
    }
  }
}

void Simulation::DoWrite(OpSlot& slot) {
  std::vector<Span> spans;
  if (!PickSpans(&spans)) return fibers_->Yield();
  std::vector<uint8_t> data;
  for (const Span& span : spans) {
    for (uint32_t i = 0; i < span.count; ++i) {
      const Value value = next_value_++;
      At(span, i).Begin(value, spans.size() > 1);
      data.resize(data.size() + kSubBytes);
      FillBlock(data.data() + data.size() - kSubBytes, value);
    }
  }
  const Span& head = spans.front();
  const uint64_t offset = head.volume->used[head.track] * kTrackBytes + head.first * kSubBytes;
  Volume& handle = Handle(*head.volume);
  const auto settle = [&](const Status& done) { Answered(spans, done, "write"); };
  // Settled inside the completion: until the engine has called it an establish waits for the write,
  // from then on it does not, as after a blocking write.
  Status status;
  const bool async = rng_() % 2 == 0 && data.size() <= kMaxAsyncWriteBytes &&
                     Awaited(&status, settle, [&](Completion* done) {
                       return handle.WriteAsync(offset, data.data(), data.size(), done);
                     });
  if (!async) {
    status = handle.Write(slot, offset, data.data(), data.size());
    settle(status);
  }
  Count(spans.size() > 1 ? Did::kWriteTracks : Did::kWrite);
  if (head.volume->thick) Count(Did::kThickWrite);
  if (!status.ok() || rng_() % 8 != 0) return;
  Count(Did::kWriteThrough);
  DoFlush();
}

void Simulation::DoWritePart(OpSlot& slot) {
  Part part;
  if (!PickPart(&part)) return fibers_->Yield();
  part.patch.word = next_value_++;
  Location& place = part.volume->locations[part.track][part.sub];
  place.BeginPatches({part.patch});
  const std::vector<Value> data(part.patch.bytes / sizeof(Value), part.patch.word);
  const Status status =
      Handle(*part.volume).Write(slot, part.offset(), data.data(), part.patch.bytes);
  Count(Did::kWritePart);
  if (!Expected(status, "write of a part", part.volume)) return;
  status.ok() ? place.AcknowledgePatches() : place.Fail();
}

// Two hosts write the two halves of one sub-block at the same time: neither is lost.
void Simulation::DoWriteHalves(OpSlot& slot) {
  Part part;
  if (!PickPart(&part)) return fibers_->Yield();
  const Patch first{0, kSubBytes / 2, next_value_++};
  const Patch second{kSubBytes / 2, kSubBytes / 2, next_value_++};
  Location& place = part.volume->locations[part.track][part.sub];
  place.BeginPatches({first, second});
  const auto write = [this, part](OpSlot& with, const Patch& patch) {
    Part half = part;
    half.patch = patch;
    const std::vector<Value> data(patch.bytes / sizeof(Value), patch.word);
    return Handle(*half.volume).Write(with, half.offset(), data.data(), patch.bytes);
  };
  Status other;
  bool other_done = false;
  fibers_->Spawn("half", [&] {
    OpSlot* own = store_->AcquireSlot();
    other = write(*own, second);
    store_->ReleaseSlot(own);
    other_done = true;
  });
  const Status status = write(slot, first);
  while (!other_done) fibers_->Yield();
  Count(Did::kWriteHalves);
  for (const Status* each : {&status, &std::as_const(other)})
    if (!Expected(*each, "write of a half", part.volume)) return;
  status.ok() && other.ok() ? place.AcknowledgePatches() : place.Fail();
}

// What was in flight at T0 may be in the copy or not, but not first the one and then the other.
void Simulation::WatchFiber(const Span& span) {
  OpSlot* slot = store_->AcquireSlot();
  for (int i = 0; i < 3 && failure_.empty(); ++i) {
    ReadSpan(*slot, span);
    for (uint64_t pause = rng_() % 40; pause != 0; --pause) fibers_->Yield();
  }
  store_->ReleaseSlot(slot);
  --hosts_running_;
}

void Simulation::DoZero(OpSlot& slot) {
  std::vector<Span> spans;
  if (!PickSpans(&spans)) return fibers_->Yield();
  uint64_t length = 0;
  for (const Span& span : spans) {
    for (uint32_t i = 0; i < span.count; ++i) At(span, i).Begin(0, true);
    length += uint64_t{span.count} * kSubBytes;
  }
  const Span& head = spans.front();
  const uint64_t offset = head.volume->used[head.track] * kTrackBytes + head.first * kSubBytes;
  Volume& handle = Handle(*head.volume);
  const bool trim = rng_() % 2 == 0;
  const bool no_hole = rng_() % 4 == 0;
  Count(trim ? Did::kTrim : no_hole ? Did::kNoHole : Did::kZero);
  Answered(
      spans,
      trim ? handle.Trim(slot, offset, length) : handle.WriteZeroes(slot, offset, length, no_hole),
      "zero");
}

// Zeroes bytes of a sub-block, or trims them, which keeps them as they are.
void Simulation::DoZeroPart(OpSlot& slot) {
  Part part;
  if (!PickPart(&part)) return fibers_->Yield();
  Volume& handle = Handle(*part.volume);
  Location& place = part.volume->locations[part.track][part.sub];
  if (part.patch.bytes == kSubBytes) return;
  if (rng_() % 2 == 0) {
    Count(Did::kTrimPart);
    (void)Expected(handle.Trim(slot, part.offset(), part.patch.bytes), "trim of a part");
    return;
  }
  place.BeginPatches({part.patch});
  const Status status = handle.WriteZeroes(slot, part.offset(), part.patch.bytes, rng_() % 4 == 0);
  Count(Did::kZeroPart);
  if (!Expected(status, "zero of a part", part.volume)) return;
  status.ok() ? place.AcknowledgePatches() : place.Fail();
}

// Reads race with writes: any value from the newest acknowledged at the begin on is right.
void Simulation::DoRead(OpSlot& slot) {
  std::vector<Span> spans;
  (void)PickSpans(&spans);
  ReadSpan(slot, spans.front());
}

void Simulation::ReadSpan(OpSlot& slot, const Span& span) {
  if (span.volume->used[span.track] >= span.volume->tracks) return;
  Count(Did::kRead);
  std::vector<uint8_t> data(span.count * kSubBytes);
  const uint64_t offset = span.volume->used[span.track] * kTrackBytes + span.first * kSubBytes;
  std::vector<Location> before;
  for (uint32_t i = 0; i < span.count; ++i) before.push_back(At(span, i));
  Volume& handle = Handle(*span.volume);
  Status status = handle.Read(slot, offset, data.data(), data.size(), ReadMode::kNoWait);
  if (status.code() == Code::kWouldBlock) {
    const bool async = rng_() % 2 == 0 && Awaited(&status, [&](Completion* done) {
                         return handle.ReadAsync(offset, data.data(), data.size(), done);
                       });
    if (!async) status = handle.Read(slot, offset, data.data(), data.size(), ReadMode::kBlocking);
  }
  if (!Expected(status, "read") || !status.ok()) return;
  for (uint32_t i = 0; i < span.count; ++i) {
    Location& location = At(span, i);
    const Value value = ValueOf(data.data() + i * kSubBytes);
    // A write to the same block was under way: like any disk, that read may be a mixture.
    if (value >> 63 && (location.busy || location.versions.size() != before[i].versions.size()))
      continue;
    if (!location.LiveAllowsFrom(before[i].live_floor, value))
      return Fail("live read: volume " + std::to_string(span.volume->id & 7) + " track " +
                  std::to_string(span.track) + " sub " + std::to_string(span.first + i) +
                  " reads " + std::to_string(value) + ", " + location.Describe(false));
    if (!before[i].busy && location.versions.size() == before[i].versions.size())
      location.Observed(value);
  }
}

void Simulation::FlushFiber(int operations) {
  for (int i = 0; i < operations && failure_.empty(); ++i) {
    for (uint64_t pause = rng_() % 60; pause != 0; --pause) fibers_->Yield();
    DoFlush();
  }
  --hosts_running_;
}

void Simulation::DoFlush() {
  std::vector<size_t> covered;
  for (SimVolume& volume : volumes_)
    volume.ForEach([&](Location& location) { covered.push_back(location.acked); });
  const Status status = store_->Flush();
  Count(Did::kFlush);
  if (!Expected(status, "flush") || !status.ok()) return;
  size_t next = 0;
  for (SimVolume& volume : volumes_)
    volume.ForEach([&](Location& location) {
      location.power_floor = std::max(location.power_floor, covered[next++]);
    });
}

}  // namespace flashlun
