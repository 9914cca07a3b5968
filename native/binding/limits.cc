#include "binding/limits.h"

#include <cstdint>
#include <optional>
#include <utility>

#include "binding/convert.h"
#include "binding/pool.h"
#include "nbd/peer.h"
#include "nbd/shares.h"

namespace flashlun::binding {
namespace {

constexpr uint64_t kMaxCount = (uint64_t{1} << 53) - 1;
constexpr uint64_t kMaxSeconds = 24 * 60 * 60;
constexpr uint64_t kMaxBurstMs = kMaxSeconds * 1000;

Pool::Use UseArgument(const Napi::CallbackInfo& info) {
  Result<Pool::Use> use =
      UsePool(static_cast<PoolHandle>(IntegerArgument(info, 0, "handle", UINT32_MAX)));
  if (!use.ok()) throw MakeError(info.Env(), use.status());
  return std::move(use.value());
}

// setRates(handle, volume id, iops, bytes/s, iops and bytes/s of a connection, burst ms): 0 is no
// limit.
void SetRates(const Napi::CallbackInfo& info) {
  const auto volume = static_cast<uint16_t>(IntegerArgument(info, 1, "volume id", UINT16_MAX));
  nbd::RateLimits limits;
  limits.iops = IntegerArgument(info, 2, "iops", kMaxCount);
  limits.bytes_per_second = IntegerArgument(info, 3, "bytesPerSecond", kMaxCount);
  limits.connection_iops = IntegerArgument(info, 4, "connectionIops", kMaxCount);
  limits.connection_bytes_per_second =
      IntegerArgument(info, 5, "connectionBytesPerSecond", kMaxCount);
  limits.burst = std::chrono::milliseconds(IntegerArgument(info, 6, "burstMs", kMaxBurstMs));
  UseArgument(info).server().shares().throttles.Of(volume)->Set(limits);
}

// throttled(handle) -> {volumeId, requests, seconds}[], of volumes where a request was delayed
Napi::Value Throttled(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Array list = Napi::Array::New(env);
  for (const auto& [id, stats] : UseArgument(info).server().shares().throttles.Stats()) {
    if (stats.delayed_requests == 0) continue;
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("volumeId", Napi::Number::New(env, id));
    entry.Set("requests", ToJs(env, stats.delayed_requests));
    entry.Set("seconds", Napi::Number::New(env, static_cast<double>(stats.delayed_ns) / 1e9));
    list.Set(list.Length(), entry);
  }
  return list;
}

// setConnectionLimits(handle, shared memory bytes, peer timeout seconds)
void SetConnectionLimits(const Napi::CallbackInfo& info) {
  const uint64_t bytes = IntegerArgument(info, 1, "memoryBytes", kMaxCount);
  const uint64_t seconds = IntegerArgument(info, 2, "peerTimeoutSeconds", kMaxSeconds);
  nbd::Shares& shares = UseArgument(info).server().shares();
  shares.memory.SetMost(bytes);
  shares.peer_timeout.store(std::chrono::seconds(seconds));
}

// connectionMemory(handle) -> {mostBytes, usedBytes, refused}
Napi::Value ConnectionMemory(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Pool::Use use = UseArgument(info);
  const nbd::ByteBudget& memory = use.server().shares().memory;
  Napi::Object answer = Napi::Object::New(env);
  answer.Set("mostBytes", ToJs(env, uint64_t{memory.most()}));
  answer.Set("usedBytes", ToJs(env, uint64_t{memory.used()}));
  answer.Set("refused", ToJs(env, memory.refused()));
  return answer;
}

// peerUid(fd) -> user id at the other end of a unix socket, or undefined
Napi::Value PeerUid(const Napi::CallbackInfo& info) {
  const auto fd = static_cast<int>(IntegerArgument(info, 0, "fd", INT32_MAX));
  const std::optional<uid_t> uid = nbd::PeerUid(fd);
  return uid.has_value() ? ToJs(info.Env(), uint64_t{*uid}) : info.Env().Undefined();
}

}  // namespace

void AddLimitFunctions(Napi::Env env, Napi::Object exports) {
  const auto add = [&](const char* name, auto function) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
  add("setRates", SetRates);
  add("throttled", Throttled);
  add("setConnectionLimits", SetConnectionLimits);
  add("connectionMemory", ConnectionMemory);
  add("peerUid", PeerUid);
}

}  // namespace flashlun::binding
