// The public face of the engine: thin calls into StoreImpl.
#include "core/store.h"

#include <algorithm>

#include "core/check.h"
#include "core/store_impl.h"

namespace flashlun {

Store::Store(std::unique_ptr<StoreImpl> impl) : impl_(std::move(impl)) {}
Store::~Store() = default;

Result<std::unique_ptr<Store>> Store::Open(Io& io, const StoreOptions& options) {
  auto impl = std::make_unique<StoreImpl>(io, options);
  if (Status status = impl->Open(); !status.ok()) return status;
  return std::unique_ptr<Store>(new Store(std::move(impl)));
}

Status Store::Close() { return impl_->Close(); }

Status Store::CreateVolume(uint16_t id, uint64_t size_bytes, std::string_view name,
                           const CreateOptions& options) {
  return impl_->CreateVolume(id, size_bytes, name, options);
}
Status Store::ResizeVolume(uint16_t id, uint64_t new_size_bytes) {
  return impl_->ResizeVolume(id, new_size_bytes);
}
Status Store::DeleteVolume(uint16_t id) { return impl_->DeleteVolume(id); }
std::vector<VolumeInfo> Store::ListVolumes() { return impl_->ListVolumes(); }
Result<VolumeInfo> Store::GetVolume(uint16_t id) { return impl_->GetVolume(id); }

Result<Volume> Store::Attach(uint16_t id) {
  Result<std::shared_ptr<VolumeState>> state = impl_->AttachState(id);
  if (!state.ok()) return state.TakeStatus();
  Volume volume;
  volume.store_ = impl_.get();
  volume.state_ = state.value();
  // One count for all copies of the handle: the last one gives it back.
  volume.attachment_ = std::shared_ptr<void>(
      nullptr, [held = volume.state_](void*) { held->attached.fetch_sub(1); });
  return volume;
}

Status Store::Establish(std::span<const PairSpec> pairs, std::vector<uint64_t>* ids) {
  return impl_->Establish(pairs, ids);
}
Status Store::Resync(std::span<const uint64_t> relationship_ids, std::optional<uint32_t> flags) {
  return impl_->CopyAgain(RecordType::kResync, relationship_ids, flags);
}
Status Store::Reverse(std::span<const uint64_t> relationship_ids, std::optional<uint32_t> flags) {
  return impl_->CopyAgain(RecordType::kReverse, relationship_ids, flags);
}
Status Store::Revert(uint64_t relationship_id, uint16_t image, int64_t t0_unix_ms, uint32_t flags) {
  return impl_->Revert(relationship_id, image, t0_unix_ms, flags);
}
Status Store::SetFlags(uint64_t relationship_id, uint32_t flags) {
  return impl_->SetRelationFlags(relationship_id, flags);
}
Status Store::Withdraw(uint64_t relationship_id) { return impl_->Withdraw(relationship_id); }
std::vector<RelationshipInfo> Store::ListRelationships() { return impl_->ListRelationships(); }
std::vector<RecordingInfo> Store::ListRecordings(uint16_t volume) {
  return impl_->ListRecordings(volume);
}
Result<CopyBatchResult> Store::CopyBatch(uint64_t relationship_id, uint64_t first_track,
                                         uint32_t max_tracks) {
  return impl_->CopyBatch(relationship_id, first_track, max_tracks);
}
Status Store::Freeze(std::span<const uint16_t> ids, std::chrono::milliseconds limit) {
  return impl_->Freeze(ids, limit);
}
std::vector<uint16_t> Store::Thaw(std::span<const uint16_t> ids) {
  return impl_->freezes().Thaw(ids);
}
Status Store::CreatePool(const std::string& name, const std::string& path,
                         uint64_t capacity_bytes) {
  return impl_->CreatePool(name, path, capacity_bytes);
}
Status Store::GrowPool(uint32_t number, uint64_t capacity_bytes) {
  return impl_->GrowPool(number, capacity_bytes);
}
std::vector<PoolInfo> Store::ListPools() { return impl_->ListPools(); }
Result<VerifyBatchResult> Store::VerifyBatch(uint16_t volume, uint64_t first_track,
                                             uint32_t max_tracks) {
  return impl_->VerifyBatch(volume, first_track, max_tracks);
}
void Store::FlushAsync(FlushWaiter* waiter) { impl_->FlushAsync(waiter); }
Status Store::Flush() { return impl_->Flush(); }
StoreInfo Store::Info() { return impl_->Info(); }
bool Store::direct() const { return impl_->direct(); }
OpSlot* Store::AcquireSlot() { return impl_->epochs().AcquireSlot(); }
void Store::ReleaseSlot(OpSlot* slot) { impl_->epochs().ReleaseSlot(slot); }

uint16_t Volume::id() const { return state_->id; }
uint64_t Volume::size_bytes() const { return state_->size_bytes; }

Status Volume::Read(OpSlot& slot, uint64_t offset_bytes, void* buf, size_t len, ReadMode mode) {
  return store_->Read(slot, *state_, offset_bytes, buf, len, mode);
}
Status Volume::Write(OpSlot& slot, uint64_t offset_bytes, const void* buf, size_t len) {
  return store_->Write(slot, *state_, offset_bytes, buf, len);
}
Status Volume::WriteZeroes(OpSlot& slot, uint64_t offset_bytes, uint64_t len, bool no_hole) {
  return store_->WriteZeroes(slot, *state_, offset_bytes, len, no_hole);
}
Status Volume::Trim(OpSlot& slot, uint64_t offset_bytes, uint64_t len) {
  return store_->Trim(slot, *state_, offset_bytes, len);
}
bool Volume::WritesInhibited() const {
  return state_->write_inhibited.load(std::memory_order_relaxed);
}
bool Volume::ReadAsync(uint64_t offset_bytes, void* buf, size_t len, Completion* done) {
  return store_->ReadAsync(*state_, offset_bytes, buf, len, done);
}
bool Volume::WriteAsync(uint64_t offset_bytes, const void* buf, size_t len, Completion* done) {
  return store_->WriteAsync(*state_, offset_bytes, buf, len, done);
}
Status Volume::BlockStatus(OpSlot& slot, const StatusQuery& query,
                           std::vector<StatusExtent>* extents) {
  return store_->BlockStatus(slot, *state_, query, extents);
}
DataRun Volume::FindRun(OpSlot& slot, uint64_t offset_bytes, uint64_t len, uint64_t data_limit,
                        uint64_t min_zero) {
  return store_->FindRun(slot, *state_, offset_bytes, len, data_limit, min_zero);
}
void Volume::Prefetch(OpSlot& slot, uint64_t offset_bytes, uint64_t len) {
  store_->Prefetch(slot, *state_, offset_bytes, len);
}

void Volume::StartWriteOut(OpSlot& slot, uint64_t offset_bytes, uint64_t len) {
  store_->StartWriteOut(slot, *state_, offset_bytes, len);
}
bool Volume::BeginHostWrite(const OpSlot& slot) {
  std::atomic<uint64_t>& writes = store_->CountersOf(slot, *state_).host_writes;
  writes.fetch_add(1);  // before the look: freeze.h
  if (!state_->frozen.load()) [[likely]]
    return true;
  writes.fetch_sub(1);
  return false;
}
void Volume::EndHostWrite(const OpSlot& slot) {
  store_->CountersOf(slot, *state_).host_writes.fetch_sub(1, std::memory_order_release);
}
bool Volume::AwaitThaw(ThawWaiter* waiter) { return store_->freezes().Await(*state_, waiter); }
void Volume::ForgetThaw(ThawWaiter* waiter) { store_->freezes().Forget(*state_, waiter); }
void Volume::CountFlush() { state_->counters[0].flush_ops.fetch_add(1, std::memory_order_relaxed); }

VolumeInfo StoreImpl::InfoOf(const VolumeState& volume) {
  VolumeInfo info;
  info.id = volume.id;
  info.name = volume.name;
  info.size_bytes = volume.size_bytes;
  info.created_unix_ms = volume.created_unix_ms;
  info.pool = volume.pool;
  info.thick = volume.thick;
  info.block_bytes = volume.block_bytes;
  info.mapped_tracks = volume.mapped_tracks;
  info.attached = volume.attached.load();
  info.frozen_until_unix_ms = freezes_.ThawsAt(volume);
  info.host_written = !volume.untouched.load();
  info.write_inhibited = volume.write_inhibited.load();
  for (const IoCounters& copy : volume.counters) {
    info.read_ops += copy.read_ops.load(std::memory_order_relaxed);
    info.read_bytes += copy.read_bytes.load(std::memory_order_relaxed);
    info.write_ops += copy.write_ops.load(std::memory_order_relaxed);
    info.write_bytes += copy.write_bytes.load(std::memory_order_relaxed);
    info.flush_ops += copy.flush_ops.load(std::memory_order_relaxed);
    info.trim_ops += copy.trim_ops.load(std::memory_order_relaxed);
    info.zero_ops += copy.zero_ops.load(std::memory_order_relaxed);
    info.error_ops += copy.error_ops.load(std::memory_order_relaxed);
    info.redirected_tracks += copy.redirected.load(std::memory_order_relaxed);
  }
  return info;
}

Status StoreImpl::Freeze(std::span<const uint16_t> ids, std::chrono::milliseconds limit) {
  std::vector<std::shared_ptr<VolumeState>> volumes;
  {
    auto lock = state_.Acquire();
    for (const uint16_t id : ids) {
      const auto it = volumes_.find(id);
      if (it == volumes_.end()) return Status(Code::kNotFound, "there is no volume to freeze");
      if (std::find(volumes.begin(), volumes.end(), it->second) == volumes.end())
        volumes.push_back(it->second);
    }
  }
  return freezes_.Freeze(volumes, limit);
}

std::vector<VolumeInfo> StoreImpl::ListVolumes() {
  auto lock = state_.Acquire();
  std::vector<VolumeInfo> list;
  list.reserve(volumes_.size());
  for (const auto& [id, volume] : volumes_) list.push_back(InfoOf(*volume));
  return list;
}

Result<VolumeInfo> StoreImpl::GetVolume(uint16_t id) {
  auto lock = state_.Acquire();
  const auto it = volumes_.find(id);
  if (it == volumes_.end()) return Status(Code::kNotFound);
  return InfoOf(*it->second);
}

StoreInfo StoreImpl::Info() {
  auto lock = state_.Acquire();
  StoreInfo info = counters_;
  info.capacity_tracks = map_->allocator().capacity();
  info.used_tracks = map_->allocator().used();
  info.sealed_tracks = map_->seals().count();
  info.last_lsn = last_lsn_;
  info.durable_lsn = durable_lsn_;
  info.poisoned = poisoned_;
  info.expired_freezes = freezes_.expired();
  info.direct = options_.direct;
  if (write_out_) info.write_out_waits = write_out_->waits();
  if (queue_) {
    info.io_backend = queue_->name();
    info.io_note = queue_->note();
  }
  if (copies_) {
    info.mirror_path = witness_.mirror_path;
    info.mirror_problem = copies_->problem();
  }
  return info;
}

}  // namespace flashlun
