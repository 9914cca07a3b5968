// Asynchronous reads and in-place writes: what must wait for the disk waits without a thread.
//
// An operation keeps its epoch slot, and a write its pins, until its last transfer has ended: to an
// establish, a drop or another writer it looks like a blocking call that takes long. It begins on
// the caller's thread, which may wait there for a gate as in any operation; it goes on and ends on
// the queue's threads, where nothing waits. So a thread that waits for a gate or a track lock which
// its own operations hold up is always freed.
#include <cstring>

#include "core/async_op.h"
#include "core/check.h"
#include "core/store_impl.h"

namespace flashlun {

void AsyncOp::Piece::Done(const Status& status) { op->store->PieceDone(*op, status); }

AsyncOp* StoreImpl::TakeAsync(VolumeState& volume, uint64_t offset, uint8_t* buf, size_t len,
                              Completion* done) {
  AsyncOp* op = nullptr;
  {
    auto lock = async_monitor_.Acquire();
    if (!async_free_.empty()) {
      op = async_free_.back();
      async_free_.pop_back();
    } else if (async_ops_.size() < kMaxAsyncOps) {
      OpSlot* slot = epochs_.AcquireSlot();
      if (slot == nullptr) return nullptr;
      op = async_ops_.emplace_back(std::make_unique<AsyncOp>()).get();
      op->store = this;
      op->slot = slot;
      for (AsyncOp::Piece& piece : op->pieces) piece.op = op;
    }
  }
  if (op == nullptr) return nullptr;
  op->volume = &volume;
  op->done = done;
  op->bytes = op->left = len;
  op->offset = offset;
  op->buf = buf;
  op->pins = 0;
  op->failed.store(false, std::memory_order_relaxed);
  return op;
}

void StoreImpl::GiveAsync(AsyncOp* op) {
  auto lock = async_monitor_.Acquire();
  async_free_.push_back(op);
}

// Adds a transfer, or lengthens the last one when the two are neighbours on the disk and in memory.
// False: there is no place for one more.
bool StoreImpl::AddPiece(AsyncOp& op, const Place& place, uint8_t* buf, size_t len) {
  if (op.piece_count != 0) {
    AsyncOp::Piece& last = op.pieces[op.piece_count - 1];
    if (last.file == place.file && last.offset + last.len == place.offset &&
        static_cast<uint8_t*>(last.buf) + last.len == buf) {
      last.len += len;
      return true;
    }
  }
  if (op.piece_count == op.pieces.size()) return false;
  AsyncOp::Piece& piece = op.pieces[op.piece_count++];
  piece.kind = op.write ? IoRequest::Kind::kWrite : IoRequest::Kind::kRead;
  piece.file = place.file;
  piece.offset = place.offset;
  piece.buf = buf;
  piece.len = len;
  return true;
}

void StoreImpl::SubmitPieces(AsyncOp& op) {
  const size_t count = op.piece_count;
  op.running.store(static_cast<uint32_t>(count), std::memory_order_relaxed);
  // The last one may end the operation before this loop does.
  for (size_t i = 0; i < count; ++i) queue_->Submit(&op.pieces[i]);
}

bool StoreImpl::ReadAsync(VolumeState& volume, uint64_t offset, void* buf, size_t len,
                          Completion* done) {
  FL_CHECK(offset + len <= volume.size_bytes);
  AsyncOp* op = TakeAsync(volume, offset, static_cast<uint8_t*>(buf), len, done);
  if (op == nullptr) return false;
  op->write = false;
  Enter(*op->slot, volume, false);
  ContinueRead(*op);
  return true;
}

// Looks up the next tracks and submits their transfers; zeroes are filled in at once.
void StoreImpl::ContinueRead(AsyncOp& op) {
  op.piece_count = 0;
  while (op.left != 0) {
    const auto within = static_cast<uint32_t>(op.offset % kTrackBytes);
    const size_t len = std::min<size_t>(op.left, kTrackBytes - within);
    const Entry entry = map_->FindEntry(*op.volume, op.offset / kTrackBytes);
    const SubRun run = RunAt(entry, within, len);
    if (run.source == SubSource::kZero)
      std::memset(op.buf, 0, run.bytes);
    else if (!AddPiece(op, PlaceOf(run.source == SubSource::kOwn ? entry.own : entry.base, within),
                       op.buf, run.bytes))
      break;
    op.buf += run.bytes;
    op.offset += run.bytes;
    op.left -= run.bytes;
  }
  if (op.piece_count == 0) return EndAsync(op);
  SubmitPieces(op);
}

bool StoreImpl::WriteAsync(VolumeState& volume, uint64_t offset, const void* buf, size_t len,
                           Completion* done) {
  FL_CHECK(offset + len <= volume.size_bytes && len <= kMaxAsyncWriteBytes);
  if ((offset | len) % kSubBytes != 0 || len == 0 || is_poisoned_.load(std::memory_order_relaxed))
    return false;
  // The queue only reads it.
  auto* from = static_cast<uint8_t*>(const_cast<void*>(buf));
  AsyncOp* op = TakeAsync(volume, offset, from, len, done);
  if (op == nullptr) return false;
  op->write = true;
  Enter(*op->slot, volume, true);
  if (!PinPieces(*op)) {
    Unpin(*op);
    Leave(*op->slot);
    GiveAsync(op);
    return false;
  }
  SubmitPieces(*op);
  return true;
}

// Path A for each track of the write. False: one of them needs another path, or somebody works on
// it; waiting here while other tracks are pinned could be for ever.
bool StoreImpl::PinPieces(AsyncOp& op) {
  op.piece_count = 0;
  op.areas = 0;
  op.first_track = op.offset / kTrackBytes;
  while (op.left != 0) {
    const uint64_t track = op.offset / kTrackBytes;
    const auto within = static_cast<uint32_t>(op.offset % kTrackBytes);
    const size_t len = std::min<size_t>(op.left, kTrackBytes - within);
    if (!track_locks_.TryPin(TrackLocks::Key(op.volume->id, track))) return false;
    ++op.pins;
    const Map::Found found = map_->Find(*op.volume, track);
    if (!found.exclusive || (TouchedSubs(within, len) & ~found.entry.mask) != 0) return false;
    // There is a place for each track of kMaxAsyncWriteBytes.
    FL_CHECK(AddPiece(op, PlaceOf(found.entry.own, within), op.buf, len));
    op.areas |= 1u << AreaOf(found.entry.own);
    op.buf += len;
    op.offset += len;
    op.left -= len;
  }
  return true;
}

void StoreImpl::Unpin(AsyncOp& op) {
  for (uint32_t i = 0; i < op.pins; ++i)
    track_locks_.Unpin(TrackLocks::Key(op.volume->id, op.first_track + i));
  op.pins = 0;
}

void StoreImpl::PieceDone(AsyncOp& op, const Status& status) {
  // Trap T13: an error is that of this operation; nothing was published, so nothing else knows.
  if (!status.ok() && !op.failed.exchange(true)) op.error = CopyOf(status);
  // The last to end sees what the others left.
  if (op.running.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  if (op.left != 0 && !op.failed.load()) return ContinueRead(op);
  EndAsync(op);
}

void StoreImpl::EndAsync(AsyncOp& op) {
  // As in WriteTrack: after the write and before its reply.
  if (op.write) areas_.MarkDirtyAreas(op.areas);
  if (op.write && write_out_) write_out_->Wrote(op.bytes);
  Unpin(op);
  IoCounters& counters = CountersOf(*op.slot, *op.volume);
  (op.write ? counters.write_ops : counters.read_ops).fetch_add(1, std::memory_order_relaxed);
  (op.write ? counters.write_bytes : counters.read_bytes)
      .fetch_add(op.bytes, std::memory_order_relaxed);
  const Status status = op.failed.load() ? std::move(op.error) : Status::Ok();
  if (!status.ok()) counters.error_ops.fetch_add(1, std::memory_order_relaxed);
  Leave(*op.slot);
  Completion* done = op.done;
  GiveAsync(&op);
  done->Done(status);  // the volume may be gone from here on
}

}  // namespace flashlun
