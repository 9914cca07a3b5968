// Connections: taking them over from the negotiation or from another server, counting, ending.
#include <fcntl.h>
#include <napi.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "binding/arguments.h"
#include "binding/tls.h"
#include "nbd/limits.h"

namespace flashlun::binding {
namespace {

// Numbers of one connection in what connections() gives, and of `counters` of a resumed one, which
// are those from the second on without the last two.
constexpr size_t kConnectionNumbers = 1 + nbd::kKinds + 3 + 2;
constexpr size_t kResumedNumbers = nbd::kKinds + 3;

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

// Of a connection that was parked: {id, unsent, drainBytes, counters}, as positional arguments from
// `index` on. Undefined: it is a new one.
void ResumeArguments(const Napi::CallbackInfo& info, size_t index,
                     nbd::ConnectionOptions* options) {
  if (info[index].IsUndefined()) return;
  options->resumed = true;
  options->id = IntegerArgument(info, index, "connection id", kMaxCount);
  options->unsent = BytesArgument(info, index + 1, "unsent", nbd::kMaxUnsentBytes);
  options->drain_bytes = IntegerArgument(info, index + 2, "drainBytes", kMaxPayloadBytes * 2);
  const std::vector<uint64_t> counts = CountsArgument(info, index + 3, "counters", kResumedNumbers);
  if (counts.size() != kResumedNumbers)
    throw MakeError(info.Env(), Status(Code::kInvalid, "counters must be of the same version"));
  nbd::ConnectionStats& stats = *options->stats;
  for (size_t kind = 0; kind < nbd::kKinds; ++kind) stats.requests[kind] = counts[kind];
  stats.errors = counts[nbd::kKinds];
  stats.bytes_in = counts[nbd::kKinds + 1];
  stats.bytes_out = counts[nbd::kKinds + 2];
}

// adopt(handle, fd, volume id, negotiated, read only, leftover, TLS session or undefined, movable[,
// id, unsent, drainBytes, counters]) -> connection id
Napi::Value Adopt(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const PoolHandle handle = HandleArgument(info);
  const Pool::Use use = UseArgument(info);
  const auto fd = static_cast<int>(IntegerArgument(info, 1, "fd", INT32_MAX));
  nbd::ConnectionOptions options;
  NegotiatedArgument(info, 3, &options);
  options.read_only = BooleanArgument(info, 4, "readOnly");
  options.leftover = BytesArgument(info, 5, "leftover", nbd::kMaxResumeBytes);
  options.movable = BooleanArgument(info, 7, "movable");
  ResumeArguments(info, 8, &options);
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

// connections(handle) -> numbers, kConnectionNumbers for each: one call and one array, however many
// there are.
Napi::Value Connections(const Napi::CallbackInfo& info) {
  const std::vector<nbd::ConnectionInfo> list = UseArgument(info).server().List();
  Napi::Float64Array numbers =
      Napi::Float64Array::New(info.Env(), list.size() * kConnectionNumbers);
  size_t at = 0;
  const auto put = [&](uint64_t number) { numbers[at++] = static_cast<double>(number); };
  for (const nbd::ConnectionInfo& each : list) {
    put(each.id);
    for (const uint64_t count : each.requests) put(count);
    put(each.errors);
    put(each.bytes_in);
    put(each.bytes_out);
    put(each.in_flight);
    put(each.held);
  }
  return numbers;
}

}  // namespace

void AddConnectionFunctions(Napi::Env env, Napi::Object exports) {
  const auto add = AdderTo(env, exports);
  add("onClosed", OnClosed);
  add("adopt", Adopt);
  add("disconnect", Disconnect);
  add("connections", Connections);
}

}  // namespace flashlun::binding
