// The addon: what src/engine/native.ts calls. Arguments are positional primitives; the typed facade
// is there.
//
// Every function names its pool by handle. Functions that may wait for the disk return promises;
// copyBatch and verifyBatch block and are for workers. An error is an Error whose `code` is the
// name of a Code.
#include <napi.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "binding/arguments.h"
#include "binding/convert.h"
#include "binding/limits.h"
#include "binding/pool.h"
#include "binding/sd_notify.h"
#include "binding/tls.h"
#include "binding/work.h"
#include "core/thread_io.h"

namespace flashlun::binding {
namespace {

IoBackend BackendArgument(const Napi::CallbackInfo& info, size_t index) {
  const std::string name = StringArgument(info, index, "io");
  if (name == "auto") return IoBackend::kAuto;
  if (name == "threads") return IoBackend::kThreads;
  if (name == "uring") return IoBackend::kUring;
  throw MakeError(info.Env(), Status(Code::kInvalid, "io must be auto, threads or uring"));
}

// Pool ------------------------------------------------------------------------

// FLASHLUN_TEST_JOURNAL_BLOCKS makes the journal of a new pool so small that checkpoints go on all
// the time (test/integration/kill-loop.test.ts). Not for users: docs say nothing of it.
void UseTestJournal(StoreOptions* options) {
  const char* blocks = std::getenv("FLASHLUN_TEST_JOURNAL_BLOCKS");
  if (blocks == nullptr) return;
  options->journal_blocks = std::strtoull(blocks, nullptr, 10);
  options->kill_ring_bytes = options->journal_blocks * 1024;
}

// open(dir, capacityBytes or 0, direct, "auto" | "threads" | "uring", metaMirror: "" as the pool
// remembers, "none" or a path) -> Promise<handle>
Napi::Value Open(const Napi::CallbackInfo& info) {
  StoreOptions options;
  options.dir = StringArgument(info, 0, "dir");
  const uint64_t capacity_bytes = IntegerArgument(info, 1, "capacityBytes", kMaxCount);
  if (capacity_bytes != 0) options.capacity_bytes = capacity_bytes;
  options.direct = BooleanArgument(info, 2, "direct");
  options.io_backend = BackendArgument(info, 3);
  options.meta_mirror = StringArgument(info, 4, "metaMirror");
  UseTestJournal(&options);
  auto handle = std::make_shared<PoolHandle>(0);
  return Work::Start(
      info.Env(),
      [options, handle]() -> Status {
        Result<PoolHandle> opened = OpenPool(options);
        if (!opened.ok()) return opened.TakeStatus();
        *handle = opened.value();
        return Status::Ok();
      },
      [handle](Napi::Env env) { return ToJs(env, uint64_t{*handle}); });
}

// opened(dir) -> handle
Napi::Value Opened(const Napi::CallbackInfo& info) {
  Result<PoolHandle> handle = FindPool(StringArgument(info, 0, "dir"));
  if (!handle.ok()) throw MakeError(info.Env(), handle.status());
  return ToJs(info.Env(), uint64_t{handle.value()});
}

// freeze(handle, volume ids, milliseconds) -> Promise
Napi::Value FreezeVolumes(const Napi::CallbackInfo& info) {
  const std::vector<uint16_t> ids = VolumesArgument(info, 1);
  const std::chrono::milliseconds limit(IntegerArgument(info, 2, "milliseconds", UINT32_MAX));
  return Work::Start(info.Env(), OnStore(HandleArgument(info), [ids, limit](Store& store) {
                       return store.Freeze(ids, limit);
                     }));
}

// thaw(handle, volume ids) -> those that were frozen
Napi::Value ThawVolumes(const Napi::CallbackInfo& info) {
  return ToJs(info.Env(), UseArgument(info).store().Thaw(VolumesArgument(info, 1)));
}

// close(handle) -> Promise
Napi::Value Close(const Napi::CallbackInfo& info) {
  const PoolHandle handle = HandleArgument(info);
  return Work::Start(info.Env(), [handle] { return ClosePool(handle); });
}

// info(handle) -> object
Napi::Value Info(const Napi::CallbackInfo& info) {
  return ToJs(info.Env(), UseArgument(info).store().Info());
}

// flush(handle) -> Promise
Napi::Value Flush(const Napi::CallbackInfo& info) {
  return Work::Start(info.Env(),
                     OnStore(HandleArgument(info), [](Store& store) { return store.Flush(); }));
}

// checkPool(dir) -> Promise<object>. Of a pool that nobody has open; changes nothing.
Napi::Value Check(const Napi::CallbackInfo& info) {
  const std::string dir = StringArgument(info, 0, "dir");
  auto report = std::make_shared<PoolReport>();
  return Work::Start(
      info.Env(),
      [dir, report]() -> Status {
        const std::unique_ptr<Io> io = MakeThreadIo();
        Result<PoolReport> checked = CheckPool(*io, dir);
        if (!checked.ok()) return checked.TakeStatus();
        *report = std::move(checked.value());
        return Status::Ok();
      },
      [report](Napi::Env env) { return ToJs(env, *report); });
}

// Volumes ---------------------------------------------------------------------

// createVolume(handle, id, sizeBytes, name, pool number, thick, blockBytes) -> Promise
Napi::Value CreateVolume(const Napi::CallbackInfo& info) {
  const uint16_t id = VolumeArgument(info, 1);
  const uint64_t size_bytes = IntegerArgument(info, 2, "sizeBytes", kMaxCount);
  const std::string name = StringArgument(info, 3, "name");
  CreateOptions options;
  options.pool = static_cast<uint32_t>(IntegerArgument(info, 4, "pool", kMaxAreas - 1));
  options.thick = BooleanArgument(info, 5, "thick");
  options.block_bytes = static_cast<uint32_t>(IntegerArgument(info, 6, "blockBytes", UINT32_MAX));
  return Work::Start(info.Env(),
                     OnStore(HandleArgument(info), [id, size_bytes, name, options](Store& store) {
                       return store.CreateVolume(id, size_bytes, name, options);
                     }));
}

// resizeVolume(handle, id, sizeBytes) -> Promise
Napi::Value ResizeVolume(const Napi::CallbackInfo& info) {
  const uint16_t id = VolumeArgument(info, 1);
  const uint64_t size_bytes = IntegerArgument(info, 2, "sizeBytes", kMaxCount);
  return Work::Start(info.Env(), OnStore(HandleArgument(info), [id, size_bytes](Store& store) {
                       return store.ResizeVolume(id, size_bytes);
                     }));
}

// deleteVolume(handle, id) -> Promise
Napi::Value DeleteVolume(const Napi::CallbackInfo& info) {
  const uint16_t id = VolumeArgument(info, 1);
  return Work::Start(info.Env(), OnStore(HandleArgument(info),
                                         [id](Store& store) { return store.DeleteVolume(id); }));
}

// volumes(handle) -> object[]
Napi::Value Volumes(const Napi::CallbackInfo& info) {
  return ToJs(info.Env(), UseArgument(info).store().ListVolumes());
}

// volume(handle, id) -> object or undefined
Napi::Value VolumeById(const Napi::CallbackInfo& info) {
  Result<VolumeInfo> volume = UseArgument(info).store().GetVolume(VolumeArgument(info, 1));
  if (volume.ok()) return ToJs(info.Env(), volume.value());
  if (volume.status().code() == Code::kNotFound) return info.Env().Undefined();
  throw MakeError(info.Env(), volume.status());
}

// Pools -----------------------------------------------------------------------

// createPool(handle, name, path, capacityBytes or 0) -> Promise
Napi::Value CreatePool(const Napi::CallbackInfo& info) {
  const std::string name = StringArgument(info, 1, "name");
  const std::string path = StringArgument(info, 2, "path");
  const uint64_t capacity_bytes = IntegerArgument(info, 3, "capacityBytes", kMaxCount);
  return Work::Start(info.Env(),
                     OnStore(HandleArgument(info), [name, path, capacity_bytes](Store& store) {
                       return store.CreatePool(name, path, capacity_bytes);
                     }));
}

// growPool(handle, number, capacityBytes or 0) -> Promise
Napi::Value GrowPool(const Napi::CallbackInfo& info) {
  const auto number = static_cast<uint32_t>(IntegerArgument(info, 1, "number", kMaxAreas - 1));
  const uint64_t capacity_bytes = IntegerArgument(info, 2, "capacityBytes", kMaxCount);
  return Work::Start(info.Env(),
                     OnStore(HandleArgument(info), [number, capacity_bytes](Store& store) {
                       return store.GrowPool(number, capacity_bytes);
                     }));
}

// pools(handle) -> object[]
Napi::Value Pools(const Napi::CallbackInfo& info) {
  return ToJs(info.Env(), UseArgument(info).store().ListPools());
}

// FlashCopy -------------------------------------------------------------------

// establish(handle, pairs) -> Promise<relationship id[]>
Napi::Value Establish(const Napi::CallbackInfo& info) {
  const std::vector<PairSpec> pairs = PairsArgument(info, 1);
  auto ids = std::make_shared<std::vector<uint64_t>>();
  return Work::Start(
      info.Env(),
      OnStore(HandleArgument(info),
              [pairs, ids](Store& store) { return store.Establish(pairs, ids.get()); }),
      [ids](Napi::Env env) { return ToJs(env, *ids); });
}

// resync(handle, relationship id) -> Promise
Napi::Value Resync(const Napi::CallbackInfo& info) {
  const uint64_t id = IntegerArgument(info, 1, "relationship id", kMaxCount);
  return Work::Start(
      info.Env(), OnStore(HandleArgument(info), [id](Store& store) { return store.Resync(id); }));
}

// reverse(handle, relationship id) -> Promise
Napi::Value Reverse(const Napi::CallbackInfo& info) {
  const uint64_t id = IntegerArgument(info, 1, "relationship id", kMaxCount);
  return Work::Start(
      info.Env(), OnStore(HandleArgument(info), [id](Store& store) { return store.Reverse(id); }));
}

// withdraw(handle, relationship id) -> Promise
Napi::Value Withdraw(const Napi::CallbackInfo& info) {
  const uint64_t id = IntegerArgument(info, 1, "relationship id", kMaxCount);
  return Work::Start(
      info.Env(), OnStore(HandleArgument(info), [id](Store& store) { return store.Withdraw(id); }));
}

// relationships(handle) -> object[]
Napi::Value Relationships(const Napi::CallbackInfo& info) {
  return ToJs(info.Env(), UseArgument(info).store().ListRelationships());
}

// recordings(handle, volume id) -> object[]
Napi::Value Recordings(const Napi::CallbackInfo& info) {
  return ToJs(info.Env(), UseArgument(info).store().ListRecordings(VolumeArgument(info, 1)));
}

// copyBatch(handle, relationship id, first track, max tracks) -> object. Blocks.
Napi::Value CopyBatch(const Napi::CallbackInfo& info) {
  const uint64_t id = IntegerArgument(info, 1, "relationship id", kMaxCount);
  const uint64_t first_track = IntegerArgument(info, 2, "first track", kMaxCount);
  const auto max_tracks = static_cast<uint32_t>(IntegerArgument(info, 3, "max tracks", UINT32_MAX));
  Result<CopyBatchResult> batch = UseArgument(info).store().CopyBatch(id, first_track, max_tracks);
  if (!batch.ok()) throw MakeError(info.Env(), batch.status());
  return ToJs(info.Env(), batch.value());
}

// verifyBatch(handle, volume id, first track, max tracks) -> object. Blocks.
Napi::Value VerifyBatch(const Napi::CallbackInfo& info) {
  const uint16_t id = VolumeArgument(info, 1);
  const uint64_t first_track = IntegerArgument(info, 2, "first track", kMaxCount);
  const auto max_tracks = static_cast<uint32_t>(IntegerArgument(info, 3, "max tracks", UINT32_MAX));
  Result<VerifyBatchResult> batch =
      UseArgument(info).store().VerifyBatch(id, first_track, max_tracks);
  if (!batch.ok()) throw MakeError(info.Env(), batch.status());
  return ToJs(info.Env(), batch.value());
}

// sdNotify(state) -> whether somebody listens
Napi::Value NotifySystemd(const Napi::CallbackInfo& info) {
  const Status status = SdNotify(StringArgument(info, 0, "state"));
  if (!status.ok() && status.code() != Code::kNotFound) throw MakeError(info.Env(), status);
  return Napi::Boolean::New(info.Env(), status.ok());
}

}  // namespace

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Environment);
  const auto add = AdderTo(env, exports);
  add("open", Open);
  add("opened", Opened);
  add("close", Close);
  add("checkPool", Check);
  add("info", Info);
  add("flush", Flush);
  add("createVolume", CreateVolume);
  add("resizeVolume", ResizeVolume);
  add("deleteVolume", DeleteVolume);
  add("volumes", Volumes);
  add("volume", VolumeById);
  add("createPool", CreatePool);
  add("growPool", GrowPool);
  add("pools", Pools);
  add("freeze", FreezeVolumes);
  add("thaw", ThawVolumes);
  add("establish", Establish);
  add("resync", Resync);
  add("reverse", Reverse);
  add("withdraw", Withdraw);
  add("relationships", Relationships);
  add("recordings", Recordings);
  add("copyBatch", CopyBatch);
  add("verifyBatch", VerifyBatch);
  AddConnectionFunctions(env, exports);
  AddTakeoverFunctions(env, exports);
  add("sdNotify", NotifySystemd);
  AddLimitFunctions(env, exports);
  AddTls(env, exports);
  return exports;
}

}  // namespace flashlun::binding

static Napi::Object InitAddon(Napi::Env env, Napi::Object exports) {
  return flashlun::binding::Init(env, exports);
}

NODE_API_MODULE(flashlun_native, InitAddon)
