// What the functions of the addon have in common: the environment, the pool a call is about, work
// on its store.
#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>
#include <utility>

#include "binding/closed_notifier.h"
#include "binding/convert.h"
#include "binding/pool.h"
#include "binding/work.h"

namespace flashlun::binding {

inline constexpr uint64_t kMaxCount = (uint64_t{1} << 53) - 1;

// Of one JavaScript environment (the main thread or a worker).
struct Environment {
  std::shared_ptr<ClosedNotifier> notifier;
};

inline PoolHandle HandleArgument(const Napi::CallbackInfo& info) {
  return static_cast<PoolHandle>(IntegerArgument(info, 0, "handle", UINT32_MAX));
}

inline uint16_t VolumeArgument(const Napi::CallbackInfo& info, size_t index) {
  return static_cast<uint16_t>(IntegerArgument(info, index, "volume id", UINT16_MAX));
}

inline Pool::Use UseArgument(const Napi::CallbackInfo& info) {
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

// connections.cc and takeover.cc: their part of what src/engine/native.ts calls.
void AddConnectionFunctions(Napi::Env env, Napi::Object exports);
void AddTakeoverFunctions(Napi::Env env, Napi::Object exports);

}  // namespace flashlun::binding
