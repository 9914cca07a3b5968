// Work: a blocking engine call on a libuv thread, as a JavaScript promise.
//
// libuv has four such threads, shared with Node's own file and crypto work; engine calls through
// here are rare and end within milliseconds, except closing. Volume I/O never comes here.
#pragma once

#include <napi.h>

#include <functional>
#include <utility>

#include "binding/convert.h"

namespace flashlun::binding {

class Work final : public Napi::AsyncWorker {
 public:
  using Body = std::function<Status()>;  // on the libuv thread; touches nothing of JavaScript
  using Convert =
      std::function<Napi::Value(Napi::Env)>;  // on the JavaScript thread, when the body returned OK

  // Starts it; the object deletes itself.
  static Napi::Value Start(Napi::Env env, Body body, Convert convert) {
    auto* work = new Work(env, std::move(body), std::move(convert));
    const Napi::Promise promise = work->promise_.Promise();
    work->Queue();
    return promise;
  }
  static Napi::Value Start(Napi::Env env, Body body) {
    return Start(env, std::move(body), [](Napi::Env inner) { return inner.Undefined(); });
  }

 protected:
  void Execute() override { status_ = body_(); }
  void OnOK() override {
    if (status_.ok()) {
      promise_.Resolve(convert_(Env()));
    } else {
      promise_.Reject(MakeError(Env(), status_).Value());
    }
  }
  // The body threw: out of memory or threads.
  void OnError(const Napi::Error& error) override { promise_.Reject(error.Value()); }

 private:
  Work(Napi::Env env, Body body, Convert convert)
      : Napi::AsyncWorker(env, "flashlun"),
        promise_(Napi::Promise::Deferred::New(env)),
        body_(std::move(body)),
        convert_(std::move(convert)) {}

  Napi::Promise::Deferred promise_;
  Body body_;
  Convert convert_;
  Status status_;
};

}  // namespace flashlun::binding
