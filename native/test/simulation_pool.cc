#include "test/simulation_pool.h"

#include <cstring>
#include <unordered_map>

#include "core/check.h"

namespace flashlun {

namespace {

// The content behind values that are hashes. Grows with the distinct contents of one program.
std::unordered_map<Value, std::vector<uint8_t>>& Contents() {
  static std::unordered_map<Value, std::vector<uint8_t>> contents;
  return contents;
}

}  // namespace

bool Known(Value value) { return Contents().contains(value); }

void ForgetContents() { Contents().clear(); }

Value Patched(Value value, const Patch& patch) {
  std::vector<uint8_t> block(kSubBytes);
  if (value >> 63)
    block = Contents().at(value);
  else
    FillBlock(block.data(), value);
  for (size_t at = 0; at < patch.bytes; at += sizeof patch.word)
    std::memcpy(&block[patch.first + at], &patch.word, sizeof patch.word);
  const Value made = ValueOf(block.data());
  if (made >> 63) Contents()[made] = std::move(block);
  return made;
}

void FillBlock(uint8_t* block, Value value) {
  for (size_t at = 0; at < kSubBytes; at += sizeof value)
    std::memcpy(block + at, &value, sizeof value);
}

Value ValueOf(const uint8_t* block) {
  Value first;
  std::memcpy(&first, block, sizeof first);
  if (std::memcmp(block, block + sizeof first, kSubBytes - sizeof first) == 0) return first;
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t at = 0; at < kSubBytes; at += sizeof first) {
    std::memcpy(&first, block + at, sizeof first);
    hash = (hash ^ first) * 0x100000001b3;
    hash ^= hash >> 29;
  }
  return hash | uint64_t{1} << 63;
}

void FillForeign(SimIo& io, const std::string& path, uint64_t tracks) {
  std::unique_ptr<File> file = std::move(io.OpenFile(path, {}).value());
  std::vector<uint8_t> foreign(kTrackBytes);
  for (size_t at = 0; at < foreign.size(); at += kSubBytes) FillBlock(&foreign[at], kForeign);
  for (uint64_t track = 0; track < tracks; ++track)
    FL_CHECK(file->Pwrite((1 << 20) + track * kTrackBytes, foreign.data(), foreign.size()).ok());
  FL_CHECK(file->Fdatasync().ok());
}

std::unique_ptr<SimIo> MakePool(const StoreOptions& options, SimIo::Rng& rng, Fibers* fibers) {
  SimIo quiet(rng, nullptr);
  Result<std::unique_ptr<Store>> store = Store::Open(quiet, options);
  FL_CHECK(store.ok());
  FL_CHECK(store.value()->Close().ok());
  store.value().reset();
  FillForeign(quiet, options.dir + "/tracks", options.capacity_bytes / kTrackBytes);
  return quiet.Crash(CrashKind::kKill, rng, fibers);
}

std::string VerifyVolume(const VolumeCheck& check, const SimVolume& volume) {
  Result<Volume> handle = check.store.Attach(volume.id);
  if (!handle.ok()) return "volume " + std::to_string(volume.id & 7) + " is gone";
  if (handle.value().size_bytes() < volume.tracks * kTrackBytes)
    return "volume " + std::to_string(volume.id & 7) + " has shrunk";
  std::vector<uint8_t> data(kTrackBytes);
  for (size_t track = 0; track < volume.used.size(); ++track) {
    if (volume.used[track] * kTrackBytes >= handle.value().size_bytes()) continue;
    const Status status = handle.value().Read(check.slot, volume.used[track] * kTrackBytes,
                                              data.data(), kTrackBytes, ReadMode::kBlocking);
    if (!status.ok()) return "read: " + status.message();
    for (uint32_t sub = 0; sub < kSubsPerTrack; ++sub) {
      const Value value = ValueOf(data.data() + sub * kSubBytes);
      if (check.found != nullptr) check.found->push_back(value);
      const Location& location = volume.locations[track][sub];
      if (location.CrashAllows(value, check.power_loss)) continue;
      return "volume " + std::to_string(volume.id & 7) + " track " + std::to_string(track) +
             " sub " + std::to_string(sub) +
             (value >> 63 ? " is torn" : " reads " + std::to_string(value)) + ", " +
             location.Describe(check.power_loss);
    }
  }
  return {};
}

std::string ReadValue(Store& store, OpSlot& slot, uint16_t id, uint64_t offset, Value* value) {
  Result<Volume> handle = store.Attach(id);
  if (!handle.ok()) return "a volume is gone";
  std::vector<uint8_t> data(kSubBytes);
  const Status status =
      handle.value().Read(slot, offset, data.data(), data.size(), ReadMode::kBlocking);
  if (!status.ok()) return "read: " + status.message();
  *value = ValueOf(data.data());
  return {};
}

std::string MismatchOf(const VerifyBatchResult& scrubbed) {
  if (scrubbed.mismatched.empty()) return {};
  const VerifyMismatch& first = scrubbed.mismatched.front();
  return "a seal does not match: volume track " + std::to_string(first.track) +
         ", physical track " + std::to_string(first.physical);
}

std::string Scrub(Store& store, uint16_t id) {
  uint64_t next = 0;
  for (;;) {
    Result<VerifyBatchResult> result = store.VerifyBatch(id, next, 8);
    if (!result.ok()) return "scrub: " + result.status().message();
    if (std::string problem = MismatchOf(result.value()); !problem.empty()) return problem;
    if (result.value().done) return {};
    next = result.value().next_track;
  }
}

}  // namespace flashlun
