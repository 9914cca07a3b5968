// JavaScript values from engine structs and back, and errors. Only for the JavaScript thread.
#pragma once

#include <napi.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/pool_check.h"
#include "core/store.h"

namespace flashlun::binding {

// An Error with `code` = CodeName(status.code()). Throw it or reject with it.
Napi::Error MakeError(Napi::Env env, const Status& status);

// Arguments. They throw an INVALID error that names the argument; a caller in TypeScript never sees
// one.
uint64_t IntegerArgument(const Napi::CallbackInfo& info, size_t index, const char* name,
                         uint64_t max);
bool BooleanArgument(const Napi::CallbackInfo& info, size_t index, const char* name);
std::string StringArgument(const Napi::CallbackInfo& info, size_t index, const char* name);
std::vector<uint8_t> BytesArgument(const Napi::CallbackInfo& info, size_t index, const char* name,
                                   size_t max_bytes);
// An array of volume ids.
std::vector<uint16_t> VolumesArgument(const Napi::CallbackInfo& info, size_t index);
// An array of counts, each up to 2^53.
std::vector<uint64_t> CountsArgument(const Napi::CallbackInfo& info, size_t index, const char* name,
                                     size_t most);
// An array of {sourceId, targetId, noCopy}.
std::vector<PairSpec> PairsArgument(const Napi::CallbackInfo& info, size_t index);

Napi::Value ToJs(Napi::Env env, const VolumeInfo& volume);
Napi::Value ToJs(Napi::Env env, const RelationshipInfo& relationship);
Napi::Value ToJs(Napi::Env env, const RecordingInfo& recording);
Napi::Value ToJs(Napi::Env env, const CopyBatchResult& batch);
Napi::Value ToJs(Napi::Env env, const VerifyMismatch& mismatch);
Napi::Value ToJs(Napi::Env env, const VerifyIoError& error);
Napi::Value ToJs(Napi::Env env, const VerifyBatchResult& batch);
Napi::Value ToJs(Napi::Env env, const StoreInfo& store);
Napi::Value ToJs(Napi::Env env, const Finding& finding);
Napi::Value ToJs(Napi::Env env, const PoolReport& report);
Napi::Value ToJs(Napi::Env env, const PoolInfo& pool);

// Counts are far below 2^53 (limits.h), so a double holds them exactly.
inline Napi::Value ToJs(Napi::Env env, uint64_t count) {
  return Napi::Number::New(env, static_cast<double>(count));
}

template <typename T>
Napi::Value ToJs(Napi::Env env, const std::vector<T>& items) {
  Napi::Array array = Napi::Array::New(env, items.size());
  for (size_t i = 0; i < items.size(); i++) {
    array.Set(static_cast<uint32_t>(i), ToJs(env, items[i]));
  }
  return array;
}

// add(name, function): a function of the addon.
inline auto AdderTo(Napi::Env env, Napi::Object exports) {
  return [env, exports](const char* name, auto function) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
}

}  // namespace flashlun::binding
