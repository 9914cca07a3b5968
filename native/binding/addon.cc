// The addon: what src/engine/native.ts calls. Arguments are positional primitives; the typed facade
// is there.
//
// Every function names its pool by handle. Functions that may wait for the disk return promises;
// copyBatch and verifyBatch block and are for workers. An error is an Error whose `code` is the
// name of a Code.
#include <fcntl.h>
#include <napi.h>

#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "binding/closed_notifier.h"
#include "binding/convert.h"
#include "binding/limits.h"
#include "binding/pool.h"
#include "binding/sd_notify.h"
#include "binding/tls.h"
#include "binding/work.h"
#include "core/thread_io.h"
#include "nbd/limits.h"

namespace flashlun::binding {
namespace {

constexpr uint64_t kMaxCount = (uint64_t{1} << 53) - 1;

// Of one JavaScript environment (the main thread or a worker).
struct Environment {
  std::shared_ptr<ClosedNotifier> notifier;
};

PoolHandle HandleArgument(const Napi::CallbackInfo& info) {
  return static_cast<PoolHandle>(IntegerArgument(info, 0, "handle", UINT32_MAX));
}

uint16_t VolumeArgument(const Napi::CallbackInfo& info, size_t index) {
  return static_cast<uint16_t>(IntegerArgument(info, index, "volume id", UINT16_MAX));
}

Pool::Use UseArgument(const Napi::CallbackInfo& info) {
  Result<Pool::Use> use = UsePool(HandleArgument(info));
  if (!use.ok()) throw MakeError(info.Env(), use.status());
  return std::move(use.value());
}

// Runs `call(store)` on a libuv thread.
template <typename Call>
Work::Body OnStore(PoolHandle handle, Call call) {
  return [handle, call]() -> Status {
    Result<Pool::Use> use = UsePool(handle);
    if (!use.ok()) return use.TakeStatus();
    return call(use.value().store());
  };
}

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

// Connections -----------------------------------------------------------------

// onClosed(callback): who hears of this environment's connections that end; see ClosedNotifier.
// Once per environment, before the first adopt.
void OnClosed(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!info[0].IsFunction()) throw MakeError(env, Status(Code::kInvalid, "callback missing"));
  auto* environment = env.GetInstanceData<Environment>();
  if (environment->notifier) environment->notifier->Disable();
  auto notifier = std::make_shared<ClosedNotifier>(env, info[0].As<Napi::Function>());
  environment->notifier = notifier;
  // Its Rule 2: after the function was made.
  env.AddCleanupHook([notifier] { notifier->Disable(); });
}

// The descriptor goes on living when libuv closes its own. The flag is shared with that one, so the
// caller destroys its socket in the same turn.
Result<int> DuplicateBlocking(int fd) {
  const int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (copy < 0) return Status(Code::kInvalid, std::string("adopt: ") + std::strerror(errno));
  const int flags = ::fcntl(copy, F_GETFL);
  if (flags >= 0) ::fcntl(copy, F_SETFL, flags & ~O_NONBLOCK);
  return copy;
}

StatusContext ContextNamed(Napi::Env env, const std::string& name) {
  if (name == "allocation") return StatusContext::kAllocation;
  if (name == "depth") return StatusContext::kDepth;
  if (name == "changes") return StatusContext::kChanges;
  throw MakeError(env, Status(Code::kInvalid, "context must be allocation, depth or changes"));
}

nbd::ReplyStyle StyleNamed(Napi::Env env, const std::string& name) {
  if (name == "simple") return nbd::ReplyStyle::kSimple;
  if (name == "structured") return nbd::ReplyStyle::kStructured;
  if (name == "extended") return nbd::ReplyStyle::kExtended;
  throw MakeError(env, Status(Code::kInvalid, "replies must be simple, structured or extended"));
}

// {replies, minBlockBytes, contexts: [{id, kind, relationshipId}]}: what negotiation agreed.
void NegotiatedArgument(const Napi::CallbackInfo& info, size_t index,
                        nbd::ConnectionOptions* options) {
  const Napi::Env env = info.Env();
  if (!info[index].IsObject()) throw MakeError(env, Status(Code::kInvalid, "negotiated missing"));
  const Napi::Object negotiated = info[index].As<Napi::Object>();
  options->replies = StyleNamed(env, negotiated.Get("replies").ToString().Utf8Value());
  options->min_block = negotiated.Get("minBlockBytes").ToNumber().Uint32Value();
  if (!std::has_single_bit(options->min_block))
    throw MakeError(env, Status(Code::kInvalid, "minBlockBytes must be a power of two"));
  const Napi::Array contexts = negotiated.Get("contexts").As<Napi::Array>();
  if (contexts.Length() > nbd::kMaxContexts)
    throw MakeError(env, Status(Code::kLimit, "too many metadata contexts"));
  for (uint32_t i = 0; i < contexts.Length(); ++i) {
    const Napi::Object item = contexts.Get(i).As<Napi::Object>();
    options->contexts.push_back(
        {item.Get("id").ToNumber().Uint32Value(),
         ContextNamed(env, item.Get("kind").ToString().Utf8Value()),
         static_cast<uint64_t>(item.Get("relationshipId").ToNumber().Int64Value())});
  }
}

// adopt(handle, fd, volume id, negotiated, read only, leftover, TLS session or undefined)
//   -> connection id
Napi::Value Adopt(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const PoolHandle handle = HandleArgument(info);
  const Pool::Use use = UseArgument(info);
  const auto fd = static_cast<int>(IntegerArgument(info, 1, "fd", INT32_MAX));
  nbd::ConnectionOptions options;
  NegotiatedArgument(info, 3, &options);
  options.read_only = BooleanArgument(info, 4, "readOnly");
  options.leftover = BytesArgument(info, 5, "leftover", nbd::kMaxLeftoverBytes);
  const std::shared_ptr<ClosedNotifier> notifier = env.GetInstanceData<Environment>()->notifier;
  if (!notifier) throw MakeError(env, Status(Code::kInvalid, "call onClosed before adopt"));
  Result<Volume> volume = use.store().Attach(VolumeArgument(info, 2));
  if (!volume.ok()) throw MakeError(env, volume.status());
  options.volume = std::move(volume.value());
  options.secure = TakeSession(info, 6);
  Result<int> copy = DuplicateBlocking(fd);
  if (!copy.ok()) throw MakeError(env, copy.status());
  options.fd = copy.value();
  Result<uint64_t> id = use.server().Serve(
      std::move(options), [notifier, handle](uint64_t closed_id, const nbd::CloseReport& report) {
        notifier->Post(handle, closed_id, report);
      });
  if (!id.ok()) throw MakeError(env, id.status());
  notifier->Opened(handle, id.value());
  return ToJs(env, id.value());
}

// disconnect(handle, connection id)
void Disconnect(const Napi::CallbackInfo& info) {
  Result<Pool::Use> use = UsePool(HandleArgument(info));
  // A closed pool has no connections left.
  if (use.ok()) {
    use.value().server().Stop(IntegerArgument(info, 1, "connection id", kMaxCount));
  }
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
  const auto add = [&](const char* name, auto function) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
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
  add("establish", Establish);
  add("resync", Resync);
  add("reverse", Reverse);
  add("withdraw", Withdraw);
  add("relationships", Relationships);
  add("recordings", Recordings);
  add("copyBatch", CopyBatch);
  add("verifyBatch", VerifyBatch);
  add("onClosed", OnClosed);
  add("adopt", Adopt);
  add("disconnect", Disconnect);
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
