#include "test/damage_run.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/checkpoint.h"
#include "core/kill_ring.h"
#include "core/store_impl.h"

namespace flashlun {
namespace {

constexpr uint16_t kFirstId = 0x1000;
constexpr uint64_t kVolumeTracks = 4;
constexpr const char* kMeta = "pool/meta";
constexpr const char* kRing = "pool/ring";
constexpr const char* kTracks = "pool/tracks";
constexpr const char* kOther = "/other.tracks";
// Bytes of one structure in which a bit is flipped.
constexpr size_t kFlips = 48;

}  // namespace

DamageRun::DamageRun() {
  for (size_t i = 0; i < 2; ++i)
    volumes_.emplace_back(static_cast<uint16_t>(kFirstId + i), kVolumeTracks,
                          std::vector<uint64_t>{0, 1, 2});
}

DamageRun::~DamageRun() { handles_.clear(); }

StoreOptions DamageRun::Options() {
  StoreOptions options;
  options.dir = "pool";
  options.capacity_bytes = 24 * kTrackBytes;
  options.journal_blocks = 24;
  options.kill_ring_bytes = 16384;
  return options;
}

std::string DamageRun::Run() {
  Prepare();
  for (const auto part : {&DamageRun::Superblocks, &DamageRun::Pages, &DamageRun::JournalBits,
                          &DamageRun::JournalBlocks, &DamageRun::Ring, &DamageRun::Labels})
    if (std::string problem = (this->*part)(); !problem.empty()) return problem;
  return {};
}

// Two sessions: the first closes in order, the second is killed with groups in the journal and
// records in the kill ring only.
void DamageRun::Prepare() {
  fibers_ = std::make_unique<Fibers>(rng_);
  io_ = MakePool(Options(), rng_, fibers_.get());
  io_->set_orderly();
  fibers_->Spawn("sessions", [this] {
    FirstSession();
    LastSession();
  });
  const std::string problem = fibers_->Run([this] { return slot_ == nullptr || last_lsn_ == 0; });
  FL_CHECK(problem.empty() && last_lsn_ != 0);
}

void DamageRun::FirstSession() {
  store_ = std::move(Store::Open(*io_, Options()).value());
  slot_ = store_->AcquireSlot();
  FL_CHECK(store_->CreatePool("other", kOther, 24 * kTrackBytes).ok());
  FillForeign(*io_, kOther, 24);
  for (SimVolume& volume : volumes_) {
    volume.pool = volume.id - kFirstId;
    FL_CHECK(store_->CreateVolume(volume.id, kVolumeTracks * kTrackBytes, "", {.pool = volume.pool})
                 .ok());
    handles_.push_back(store_->Attach(volume.id).value());
  }
  for (size_t volume = 0; volume < 2; ++volume) {
    Write(volume, 0, 0, kSubsPerTrack);
    Write(volume, 1, 2, 5);
  }
  Flush();
  handles_.clear();
  store_->ReleaseSlot(slot_);
  slot_ = nullptr;
  FL_CHECK(store_->Close().ok());
  store_.reset();
}

void DamageRun::LastSession() {
  store_ = std::move(Store::Open(*io_, Options()).value());
  slot_ = store_->AcquireSlot();
  for (const SimVolume& volume : volumes_) handles_.push_back(store_->Attach(volume.id).value());
  // Each flush one group.
  for (uint32_t sub = 8; sub < 13; ++sub) {
    Write(0, 1, sub, 1);
    Flush();
  }
  Write(1, 2, 0, 3);
  Flush();
  // A checkpoint of this session too: the one before and a longer replay are then the second way.
  const uint64_t before = store_->Info().checkpoints;
  store_->impl().RequestCheckpoint();
  while (store_->Info().checkpoints == before) fibers_->Yield();
  for (uint32_t sub = 5; sub < 9; ++sub) {
    Write(1, 2, sub, 1);
    Flush();
  }
  for (uint32_t sub = 9; sub < 13; ++sub) Write(1, 2, sub, 1);
  last_lsn_ = store_->Info().last_lsn;
  fibers_->Yield();
}

void DamageRun::Write(size_t volume, size_t track, uint32_t first, uint32_t count) {
  std::vector<uint8_t> data(count * kSubBytes);
  for (uint32_t i = 0; i < count; ++i) {
    Location& place = volumes_[volume].locations[track][first + i];
    place.Begin(next_value_, false);
    FillBlock(&data[i * kSubBytes], next_value_++);
    place.Acknowledge();
  }
  const uint64_t offset = volumes_[volume].used[track] * kTrackBytes + first * kSubBytes;
  FL_CHECK(handles_[volume].Write(*slot_, offset, data.data(), data.size()).ok());
}

void DamageRun::Flush() {
  FL_CHECK(store_->Flush().ok());
  for (SimVolume& volume : volumes_)
    volume.ForEach([](Location& place) { place.power_floor = place.acked; });
}

DamageRun::Machine DamageRun::Killed() { return io_->Crash(CrashKind::kKill, rng_, nullptr); }

// Everything that was written is on the disk; the ring is of another boot.
DamageRun::Machine DamageRun::Rebooted() {
  return io_->LosePower({PowerCut::Keep::kAll, 0, false}, rng_, nullptr);
}

std::vector<uint8_t> DamageRun::BytesOf(SimIo& machine, const std::string& path, uint64_t offset,
                                        size_t length) {
  std::vector<uint8_t> bytes(length);
  FL_CHECK(machine.OpenFile(path, {}).value()->Pread(offset, bytes.data(), length).ok());
  return bytes;
}

std::vector<uint64_t> DamageRun::Used(SimIo& machine, const std::string& path, uint64_t offset,
                                      size_t length, size_t most) {
  const std::vector<uint8_t> bytes = BytesOf(machine, path, offset, length);
  std::vector<uint64_t> used;
  for (size_t at = 0; at < length; ++at)
    if (bytes[at] != 0) used.push_back(offset + at);
  // Spread over all of it.
  std::vector<uint64_t> some;
  const size_t step = std::max<size_t>(1, used.size() / most);
  for (size_t at = 0; at < used.size(); at += step) some.push_back(used[at]);
  return some;
}

std::string DamageRun::Flips(bool killed, const std::string& path,
                             const std::vector<uint64_t>& bytes, May may, bool tail) {
  for (const uint64_t at : bytes) {
    Machine machine = killed ? Killed() : Rebooted();
    machine->FlipBit(path, at);
    const std::string what = "a bit of " + path + " at byte " + std::to_string(at);
    if (std::string problem = Check(std::move(machine), what, may, tail); !problem.empty())
      return problem;
  }
  return {};
}

std::string DamageRun::Check(Machine machine, const std::string& what, May may, bool tail) {
  ++opens_;
  Result<std::unique_ptr<Store>> opened = Store::Open(*machine, Options());
  if (!opened.ok()) {
    const std::string text = opened.status().message();
    if (may == May::kShow) return what + ": the open refuses: " + text;
    if (opened.status().code() != Code::kCorrupt || text.find("tracks") == std::string::npos)
      if (text.find("pool") == std::string::npos) return what + ": refused without a file: " + text;
    return {};
  }
  if (may == May::kRefuse) return what + ": the open does not notice";
  const std::string problem = Content(*opened.value(), tail);
  return problem.empty() ? "" : what + ": " + problem;
}

std::string DamageRun::Content(Store& store, bool tail) {
  OpSlot* slot = store.AcquireSlot();
  std::string problem;
  for (const SimVolume& volume : volumes_) {
    if (problem.empty()) problem = VerifyVolume({store, *slot, tail}, volume);
    if (problem.empty() &&
        store.GetVolume(volume.id).value().size_bytes != kVolumeTracks * kTrackBytes)
      problem = "a volume has another size";
  }
  store.ReleaseSlot(slot);
  return problem;
}

std::string DamageRun::Superblocks() {
  const Machine machine = Killed();
  for (const uint64_t copy : kSuperblockOffsets)
    if (std::string problem =
            Flips(true, kMeta, Used(*machine, kMeta, copy, kBlockBytes, kFlips), May::kShow, false);
        !problem.empty())
      return problem;
  Machine all = Killed();
  for (const uint64_t copy : kSuperblockOffsets) all->FlipBit(kMeta, copy + 20);
  return Check(std::move(all), "all four superblock copies", May::kRefuse, false);
}

// Every page of the current checkpoint. Some are of the one before as well: there is no second way.
std::string DamageRun::Pages() {
  const Machine machine = Killed();
  const std::unique_ptr<File> meta = std::move(machine->OpenFile(kMeta, {}).value());
  const Superblock superblock = ReadSuperblock(*meta).value();
  const uint64_t begin = PagesOffset(superblock.journal_blocks);
  Checkpoints checkpoints(PageStore(*meta, begin), superblock.pool_uuid);
  Map map(0);
  map.set_replaying(true);
  FL_CHECK(checkpoints.Load(superblock.current, map).ok());
  for (const PageRun& run : checkpoints.Runs()) {
    const std::vector<uint64_t> bytes =
        Used(*machine, kMeta, begin + run.page * kPageBytes, run.count * kPageBytes, kFlips);
    if (std::string problem = Flips(true, kMeta, bytes, May::kShowOrRefuse, false);
        !problem.empty())
      return problem;
  }
  return {};
}

JournalPosition DamageRun::EndOf(File& meta, const Superblock& superblock, uint64_t* lsn) {
  Journal journal(meta, kJournalOffset, superblock.journal_blocks, superblock.pool_uuid);
  return journal
      .Replay(superblock.current.replay, superblock.open_epoch,
              [lsn](uint64_t seen, const uint8_t*, size_t) {
                *lsn = std::max(*lsn, seen);
                return Status::Ok();
              })
      .value();
}

// Every block of the journal but the last group, whose damage looks like a torn tail.
std::string DamageRun::JournalBits() {
  const Machine machine = Rebooted();
  const std::unique_ptr<File> meta = std::move(machine->OpenFile(kMeta, {}).value());
  const Superblock superblock = ReadSuperblock(*meta).value();
  uint64_t lsn = 0;
  const JournalPosition end = EndOf(*meta, superblock, &lsn);
  for (uint64_t seq = superblock.previous.replay.next_seq; seq < end.next_seq; ++seq) {
    const uint64_t at = kJournalOffset + seq % superblock.journal_blocks * kBlockBytes;
    const bool last = seq + 1 == end.next_seq;
    const bool needed = seq >= superblock.current.replay.next_seq && !last;
    for (const uint64_t byte : Used(*machine, kMeta, at, kBlockBytes, kFlips)) {
      Machine damaged = Rebooted();
      damaged->FlipBit(kMeta, byte);
      const std::string what = "a bit of journal block " + std::to_string(seq);
      ++opens_;
      Result<std::unique_ptr<Store>> opened = Store::Open(*damaged, Options());
      if (!opened.ok() && !needed && !last) return what + ": " + opened.status().message();
      if (!opened.ok()) continue;
      if (needed) return what + ": the open does not notice";
      // Of the last group either all is there or nothing.
      if (last) continue;
      if (std::string problem = Content(*opened.value(), true); !problem.empty())
        return what + ": " + problem;
    }
  }
  return {};
}

// Blocks that look like the journal's next one. The first is right in everything: so they would be
// believed.
std::string DamageRun::JournalBlocks() {
  const std::string other(36, '0');
  const Plant plants[] = {
      {.what = "a group that is right", .uuid = {}, .believed = true},
      {.what = "a journal block with bytes that were not written", .uuid = {}, .torn = true},
      {.what = "a journal block of another pool", .uuid = other},
      {.what = "a journal block of an older session", .uuid = {}, .epoch = -1},
      {.what = "a journal block of a session that never was", .uuid = {}, .epoch = 1},
      {.what = "a journal block of the next pass",
       .uuid = {},
       .seq = static_cast<int64_t>(Options().journal_blocks)},
      {.what = "a journal block that follows another one", .uuid = {}, .chained = false},
      {.what = "a later group", .uuid = {}, .group = 1, .may = May::kRefuse},
  };
  for (const Plant& plant : plants)
    if (std::string problem = Try(plant); !problem.empty()) return problem;
  return {};
}

std::string DamageRun::Try(const Plant& plant) {
  Machine machine = Rebooted();
  const std::unique_ptr<File> meta = std::move(machine->OpenFile(kMeta, {}).value());
  const Superblock superblock = ReadSuperblock(*meta).value();
  uint64_t lsn = superblock.current.lsn;
  JournalPosition position = EndOf(*meta, superblock, &lsn);
  const uint64_t slot = position.next_seq % superblock.journal_blocks;
  position.next_seq += static_cast<uint64_t>(plant.seq);
  position.last_group += static_cast<uint64_t>(plant.group);
  if (!plant.chained) position.last_crc ^= 1;
  const ResizeVolumeRecord record{
      MakeHeader<ResizeVolumeRecord>(RecordType::kResizeVolume, kFirstId, 0),
      (kVolumeTracks + 1) * kTrackBytes};
  RecordBatch batch;
  batch.bytes.resize(sizeof record);
  std::memcpy(batch.bytes.data(), &record, sizeof record);
  batch.first_lsn = lsn + 1;
  batch.count = 1;
  Journal writer(*meta, kJournalOffset, superblock.journal_blocks,
                 plant.uuid.empty() ? superblock.pool_uuid : plant.uuid);
  const uint64_t epoch = superblock.open_epoch + static_cast<uint64_t>(plant.epoch);
  FL_CHECK(writer.WriteGroup(position, epoch, batch).ok());
  // In the middle of the record, where only the checksum sees it.
  if (plant.torn) machine->FlipBit(kMeta, kJournalOffset + slot * kBlockBytes + 64 + 10);
  if (!plant.believed) return Check(std::move(machine), plant.what, plant.may, true);
  ++opens_;
  Result<std::unique_ptr<Store>> opened = Store::Open(*machine, Options());
  if (!opened.ok()) return std::string(plant.what) + ": " + opened.status().message();
  const uint64_t size = opened.value()->GetVolume(kFirstId).value().size_bytes;
  return size == record.size_bytes ? "" : std::string(plant.what) + ": not believed";
}

// A frame that does not check ends what is believed; with whole ones behind it, it is damage.
std::string DamageRun::Ring() {
  std::unique_ptr<SharedMemory> memory = std::move(
      Killed()->ReadShared(kRing, KillRing::kHeaderBytes + Options().kill_ring_bytes).value());
  for (size_t at = 0; at < memory->size(); ++at) {
    if (memory->data()[at] == 0) continue;
    Machine machine = Killed();
    std::unique_ptr<SharedMemory> damaged =
        std::move(machine->MapShared(kRing, memory->size()).value());
    damaged->data()[at] ^= 1;
    const std::string what = "a bit of the kill ring at byte " + std::to_string(at);
    if (std::string problem = Check(std::move(machine), what, May::kShowOrRefuse, true);
        !problem.empty())
      return problem;
  }
  return {};
}

std::string DamageRun::Labels() {
  const Machine machine = Killed();
  for (const char* path : {kTracks, kOther})
    if (std::string problem =
            Flips(true, path, Used(*machine, path, 0, 128, 128), May::kRefuse, false);
        !problem.empty())
      return problem;
  Machine exchanged = Killed();
  FL_CHECK(exchanged->Rename(kTracks, "/between.tracks").ok());
  FL_CHECK(exchanged->Rename(kOther, kTracks).ok());
  FL_CHECK(exchanged->Rename("/between.tracks", kOther).ok());
  return Check(std::move(exchanged), "two data areas exchanged", May::kRefuse, false);
}

}  // namespace flashlun
