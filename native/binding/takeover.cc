// Handing connections from one server of a data directory to the next: parking, releasing the pool,
// messages with descriptors. src/takeover puts it together.
//
// Descriptors are plain numbers here. Who got one closes it, with closeDescriptor.
#include <fcntl.h>
#include <napi.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "binding/arguments.h"
#include "nbd/descriptor_channel.h"
#include "nbd/limits.h"
#include "nbd/peer.h"

namespace flashlun::binding {
namespace {

int DescriptorArgument(const Napi::CallbackInfo& info, size_t index) {
  return static_cast<int>(IntegerArgument(info, index, "descriptor", INT32_MAX));
}

std::chrono::milliseconds LimitArgument(const Napi::CallbackInfo& info, size_t index) {
  return std::chrono::milliseconds(IntegerArgument(info, index, "milliseconds", UINT32_MAX));
}

Napi::Value Bytes(Napi::Env env, const std::vector<uint8_t>& bytes) {
  return Napi::Buffer<uint8_t>::Copy(env, bytes.data(), bytes.size());
}

// Connections -----------------------------------------------------------------

// park(handle) -> Promise<{id, fd, leftover, unsent, drainBytes}[]>. The descriptors stay the
// pool's.
Napi::Value Park(const Napi::CallbackInfo& info) {
  const PoolHandle handle = HandleArgument(info);
  auto parked = std::make_shared<std::vector<nbd::ParkedInfo>>();
  return Work::Start(
      info.Env(),
      [handle, parked]() -> Status {
        Result<Pool::Use> use = UsePool(handle);
        if (!use.ok()) return use.TakeStatus();
        if (Status status = use.value().server().ParkAll(); !status.ok()) return status;
        *parked = use.value().server().Parked();
        return Status::Ok();
      },
      [parked](Napi::Env env) {
        Napi::Array list = Napi::Array::New(env, parked->size());
        for (uint32_t i = 0; i < parked->size(); ++i) {
          const nbd::ParkedInfo& each = (*parked)[i];
          Napi::Object item = Napi::Object::New(env);
          item.Set("id", ToJs(env, each.id));
          item.Set("fd", each.fd);
          item.Set("leftover", Bytes(env, each.leftover));
          item.Set("unsent", Bytes(env, each.unsent));
          item.Set("drainBytes", ToJs(env, each.drain_bytes));
          list.Set(i, item);
        }
        return list;
      });
}

// unpark(handle)
void Unpark(const Napi::CallbackInfo& info) {
  Result<Pool::Use> use = UsePool(HandleArgument(info));
  if (use.ok()) use.value().server().UnparkAll();
}

// release(handle) -> Promise: forgets what is parked and closes the pool, fast.
Napi::Value Release(const Napi::CallbackInfo& info) {
  const PoolHandle handle = HandleArgument(info);
  return Work::Start(info.Env(), [handle]() -> Status {
    {
      Result<Pool::Use> use = UsePool(handle);
      if (!use.ok()) return use.TakeStatus();
      use.value().server().ForgetParked();
    }
    return ClosePool(handle, true);
  });
}

// Messages --------------------------------------------------------------------

// sendMessage(socket, body, descriptors, milliseconds) -> Promise
Napi::Value SendMessage(const Napi::CallbackInfo& info) {
  const int socket = DescriptorArgument(info, 0);
  auto body =
      std::make_shared<std::vector<uint8_t>>(BytesArgument(info, 1, "body", nbd::kMaxMessageBytes));
  std::vector<int> descriptors;
  for (const uint64_t each : CountsArgument(info, 2, "descriptors", nbd::kMaxDescriptors))
    descriptors.push_back(static_cast<int>(each));
  const std::chrono::milliseconds limit = LimitArgument(info, 3);
  return Work::Start(info.Env(), [socket, body, descriptors, limit] {
    return nbd::SendMessage(socket, *body, descriptors, limit);
  });
}

// receiveMessage(socket, milliseconds) -> Promise<{body, descriptors}>
Napi::Value ReceiveMessage(const Napi::CallbackInfo& info) {
  const int socket = DescriptorArgument(info, 0);
  const std::chrono::milliseconds limit = LimitArgument(info, 1);
  auto message = std::make_shared<nbd::DescriptorMessage>();
  return Work::Start(
      info.Env(),
      [socket, limit, message]() -> Status {
        Result<nbd::DescriptorMessage> received = nbd::ReceiveMessage(socket, limit);
        if (!received.ok()) return received.TakeStatus();
        *message = std::move(received.value());
        return Status::Ok();
      },
      [message](Napi::Env env) {
        Napi::Array descriptors = Napi::Array::New(env, message->descriptors.size());
        for (uint32_t i = 0; i < message->descriptors.size(); ++i)
          descriptors.Set(i, message->descriptors[i]);
        Napi::Object object = Napi::Object::New(env);
        object.Set("body", Bytes(env, message->body));
        object.Set("descriptors", descriptors);
        return object;
      });
}

// Sockets ---------------------------------------------------------------------

Napi::Value DescriptorOrThrow(Napi::Env env, Result<int> descriptor) {
  if (!descriptor.ok()) throw MakeError(env, descriptor.status());
  return Napi::Number::New(env, descriptor.value());
}

// listenUnix(path) -> descriptor
Napi::Value ListenUnix(const Napi::CallbackInfo& info) {
  return DescriptorOrThrow(info.Env(), nbd::ListenUnix(StringArgument(info, 0, "path")));
}

// connectUnix(path) -> descriptor. Does not wait: a unix socket's listener takes it, or does not.
Napi::Value ConnectUnix(const Napi::CallbackInfo& info) {
  return DescriptorOrThrow(info.Env(), nbd::ConnectUnix(StringArgument(info, 0, "path")));
}

// duplicate(fd) -> descriptor
Napi::Value Duplicate(const Napi::CallbackInfo& info) {
  const int copy = ::fcntl(DescriptorArgument(info, 0), F_DUPFD_CLOEXEC, 3);
  if (copy >= 0) return Napi::Number::New(info.Env(), copy);
  throw MakeError(info.Env(), Status(Code::kLimit, std::string("dup: ") + std::strerror(errno)));
}

// closeDescriptor(fd)
void CloseDescriptor(const Napi::CallbackInfo& info) { ::close(DescriptorArgument(info, 0)); }

// peerCredentials(fd) -> {pid, uid}, of a unix socket (nbd/peer.h)
Napi::Value CredentialsOf(const Napi::CallbackInfo& info) {
  Result<nbd::PeerCredentials> peer = nbd::CredentialsOf(DescriptorArgument(info, 0));
  if (!peer.ok()) throw MakeError(info.Env(), peer.status());
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("pid", static_cast<double>(peer.value().pid));
  object.Set("uid", static_cast<double>(peer.value().uid));
  return object;
}

}  // namespace

void AddTakeoverFunctions(Napi::Env env, Napi::Object exports) {
  const auto add = AdderTo(env, exports);
  add("park", Park);
  add("unpark", Unpark);
  add("release", Release);
  add("sendMessage", SendMessage);
  add("receiveMessage", ReceiveMessage);
  add("listenUnix", ListenUnix);
  add("connectUnix", ConnectUnix);
  add("duplicate", Duplicate);
  add("closeDescriptor", CloseDescriptor);
  add("peerCredentials", CredentialsOf);
}

}  // namespace flashlun::binding
