#include "binding/limits.h"

#include <cstdint>
#include <utility>

#include "binding/arguments.h"
#include "nbd/shares.h"

namespace flashlun::binding {
namespace {

constexpr uint64_t kMaxSeconds = 24 * 60 * 60;
constexpr uint64_t kMaxBurstMs = kMaxSeconds * 1000;

// setRates(handle, volume id, iops, bytes/s, iops and bytes/s of a connection, burst ms): 0 is no
// limit.
void SetRates(const Napi::CallbackInfo& info) {
  const uint16_t volume = VolumeArgument(info, 1);
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

}  // namespace

void AddLimitFunctions(Napi::Env env, Napi::Object exports) {
  const auto add = AdderTo(env, exports);
  add("setRates", SetRates);
  add("throttled", Throttled);
  add("setConnectionLimits", SetConnectionLimits);
  add("connectionMemory", ConnectionMemory);
}

}  // namespace flashlun::binding
