// Pools: the data areas of the store, as people create and enlarge them (areas.h).
//
// A new area's file, with its label, is durable before the record that adds it; at open every area
// must be there.
#include <algorithm>

#include "core/check.h"
#include "core/store_impl.h"

namespace flashlun {
namespace {

bool ValidName(const std::string& name) {
  return !name.empty() && name.size() <= kMaxPoolNameBytes &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '-' || c == '_' || c == '.';
         });
}

// Tracks of a block device behind its label; 0 for a file, which is as large as one likes.
Result<uint64_t> DeviceTracks(File& file) {
  if (!file.fixed_size()) return uint64_t{0};
  Result<uint64_t> size = file.Size();
  if (!size.ok()) return size.TakeStatus();
  if (size.value() <= Areas::kTracksOffset)
    return Status(Code::kInvalid, file.path() + " refused: the device has less than 1 MiB");
  return (size.value() - Areas::kTracksOffset) / kTrackBytes;
}

}  // namespace

Status StoreImpl::NoPool(uint32_t number) {
  return Status(Code::kNotFound, "pool " + std::to_string(number) + " does not exist");
}

// One change of the pools at a time.
class StoreImpl::PoolsTurn {
 public:
  explicit PoolsTurn(StoreImpl& store) : store_(store) {
    auto lock = store_.pools_monitor_.Acquire();
    while (store_.changing_pools_) store_.pools_done_.Wait(lock);
    store_.changing_pools_ = true;
  }
  ~PoolsTurn() {
    auto lock = store_.pools_monitor_.Acquire();
    store_.changing_pools_ = false;
    store_.pools_done_.NotifyAll();
  }
  PoolsTurn(const PoolsTurn&) = delete;
  PoolsTurn& operator=(const PoolsTurn&) = delete;

 private:
  StoreImpl& store_;
};

Status StoreImpl::CheckNewPool(AreaSpec* area) {
  if (!ValidName(area->name))
    return Status(Code::kInvalid,
                  "a pool's name has 1 to 64 letters, digits, dots, hyphens or underscores");
  if (area->path.empty() || area->path[0] != '/' || area->path.size() >= kMaxPoolPathBytes)
    return Status(
        Code::kInvalid,
        "a pool's path is absolute, of a new file or of a block device on the server, and "
        "has at most 511 bytes");
  auto lock = state_.Acquire();
  if (!poisoned_.empty()) return Status(Code::kPoisoned, poisoned_);
  for (const auto& [number, other] : area_specs_) {
    if (other.name == area->name)
      return Status(Code::kExists, "pool " + area->name + " exists; choose another name");
    if (other.path == area->path)
      return Status(Code::kExists, area->path + " refused: it is pool " + other.name);
  }
  if (area_specs_.size() >= kMaxAreas)
    return Status(Code::kLimit, "there are 16 pools, the limit; enlarge one instead");
  area->number = static_cast<uint32_t>(area_specs_.size());  // pools are never removed
  return Status::Ok();
}

Status StoreImpl::CreatePool(const std::string& name, const std::string& path,
                             uint64_t capacity_bytes) {
  const PoolsTurn turn(*this);
  AreaSpec area{0, name, path, capacity_bytes / kTrackBytes};
  if (Status status = CheckNewPool(&area); !status.ok()) return status;
  if (area.capacity_tracks == 0) {
    // As large as the device is.
    Result<std::unique_ptr<File>> file = io_.OpenFile(path, {.exclusive = true});
    if (!file.ok() && io_.Exists(path)) return file.TakeStatus();  // a device in use, for example
    if (file.ok()) {
      Result<uint64_t> tracks = DeviceTracks(*file.value());
      if (!tracks.ok()) return tracks.TakeStatus();
      area.capacity_tracks = tracks.value();
    }
  }
  if (area.capacity_tracks == 0)
    return Status(Code::kInvalid, "a pool on a file needs a size of at least 64 KiB");
  area.capacity_tracks = std::min(area.capacity_tracks, kMaxAreaTracks);
  if (Status status = Areas::Create(io_, area, path, pool_uuid_); !status.ok()) return status;
  if (Status status = areas_.Open(io_, area, path, pool_uuid_, {.direct = options_.direct});
      !status.ok())
    return status;
  Throttle();
  {
    auto lock = state_.Acquire();
    if (!poisoned_.empty()) return Status(Code::kPoisoned, poisoned_);
    AddPoolRecord record{
        MakeHeader<AddPoolRecord>(RecordType::kAddPool, static_cast<uint16_t>(area.number),
                                  static_cast<uint16_t>(name.size())),
        area.capacity_tracks,
        {},
        {}};
    std::copy(name.begin(), name.end(), record.name);
    std::copy(path.begin(), path.end(), record.path);
    AppendRecord(&record, sizeof record);
    SetArea(area);
    space_wanted_.NotifyAll();
  }
  return Flush();
}

Status StoreImpl::GrowPool(uint32_t number, uint64_t capacity_bytes) {
  const PoolsTurn turn(*this);
  AreaSpec area;
  {
    auto lock = state_.Acquire();
    const auto it = area_specs_.find(number);
    if (it == area_specs_.end()) return NoPool(number);
    area = it->second;
  }
  Result<uint64_t> device = DeviceTracks(areas_.file(number));
  if (!device.ok()) return device.TakeStatus();
  const uint64_t tracks = capacity_bytes == 0 ? device.value() : capacity_bytes / kTrackBytes;
  if (tracks < area.capacity_tracks)
    return Status(Code::kInvalid, "pool " + area.name + " has " +
                                      std::to_string(area.capacity_tracks * kTrackBytes) +
                                      " bytes; a pool can only be enlarged");
  if (tracks > kMaxAreaTracks || (device.value() != 0 && tracks > device.value()))
    return Status(Code::kInvalid, "pool " + area.name + " refused: " + areas_.file(number).path() +
                                      " is not that large; enlarge the device first");
  if (tracks == area.capacity_tracks) return Status::Ok();
  Throttle();
  {
    auto lock = state_.Acquire();
    if (!poisoned_.empty()) return Status(Code::kPoisoned, poisoned_);
    const GrowPoolRecord record{
        MakeHeader<GrowPoolRecord>(RecordType::kGrowPool, static_cast<uint16_t>(number), 0),
        tracks};
    AppendRecord(&record, sizeof record);
    area.capacity_tracks = tracks;
    SetArea(area);
    space_wanted_.NotifyAll();
  }
  return Flush();
}

std::vector<PoolInfo> StoreImpl::ListPools() {
  auto lock = state_.Acquire();
  std::vector<PoolInfo> list;
  for (const auto& [number, area] : area_specs_) {
    const AreaSpace& space = map_->allocator().space(number);
    PoolInfo info;
    info.number = number;
    info.name = area.name;
    info.path = areas_.file(number).path();
    info.capacity_tracks = space.capacity;
    info.used_tracks = space.used;
    info.ready_tracks = space.ready;
    info.claimed_tracks = space.claims;
    info.thick_used_tracks = space.thick_used;
    // Holes count: they become READY when they are needed.
    const int64_t available = map_->allocator().Available(number, false) +
                              static_cast<int64_t>(space.capacity - space.ready);
    info.available_tracks = static_cast<uint64_t>(std::max<int64_t>(available, 0));
    info.growth_error = growth_[number].error;
    list.push_back(std::move(info));
  }
  return list;
}

}  // namespace flashlun
