#include "binding/tls.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "binding/convert.h"
#include "tls/library.h"
#include "tls/limits.h"
#include "tls/provider.h"

namespace flashlun::binding {
namespace {

using tls::Session;
using Step = nbd::SecureStream::Step;

struct HeldContext {
  std::unique_ptr<tls::Context> context;
};

struct HeldSession {
  std::unique_ptr<Session> session;  // empty once taken
  bool open = false;
};

// What the facade passes is what we made, so a wrong one is a bug that a tag would not mend.
template <typename T>
T& Held(const Napi::CallbackInfo& info, size_t index) {
  if (!info[index].IsExternal()) {
    throw MakeError(info.Env(), Status(Code::kInvalid, "not a TLS context or session"));
  }
  return *info[index].As<Napi::External<T>>().Data();
}

template <typename T>
Napi::Value Hold(Napi::Env env, T held) {
  return Napi::External<T>::New(env, new T(std::move(held)), [](Napi::Env, T* old) { delete old; });
}

Session& SessionArgument(const Napi::CallbackInfo& info) {
  HeldSession& held = Held<HeldSession>(info, 0);
  if (!held.session) throw MakeError(info.Env(), Status(Code::kClosed, "the session is taken"));
  return *held.session;
}

Napi::Value Bytes(Napi::Env env, const uint8_t* from, size_t count) {
  return Napi::Buffer<uint8_t>::Copy(env, from, count);
}

Napi::Value TakeOutput(Napi::Env env, Session& session) {
  size_t count = 0;
  const uint8_t* output = session.Output(&count);
  session.OutputSent();
  return Bytes(env, output, count);
}

std::string TextField(const Napi::Object& object, const char* name) {
  return object.Get(name).As<Napi::String>().Utf8Value();
}

tls::VerifyPeer VerifyField(const Napi::Object& object) {
  const std::string word = TextField(object, "verifyPeer");
  if (word == "required") return tls::VerifyPeer::kRequired;
  return word == "optional" ? tls::VerifyPeer::kOptional : tls::VerifyPeer::kNo;
}

// FLASHLUN_TEST_TLS_REKEY_RECORDS makes sessions change keys so often that a test sees it
// (test/integration/tls-clients.test.ts). Not for users.
uint64_t TestRekeyRecords() {
  const char* records = std::getenv("FLASHLUN_TEST_TLS_REKEY_RECORDS");
  return records == nullptr ? 0 : std::strtoull(records, nullptr, 10);
}

tls::Credentials CredentialsArgument(const Napi::CallbackInfo& info) {
  const auto object = info[0].As<Napi::Object>();
  tls::Credentials credentials;
  credentials.certificate = TextField(object, "certificate");
  credentials.key = TextField(object, "key");
  credentials.ca = TextField(object, "ca");
  credentials.crl = TextField(object, "crl");
  credentials.verify_peer = VerifyField(object);
  credentials.rekey_records = TestRekeyRecords();
  const auto psk = object.Get("psk").As<Napi::Array>();
  for (uint32_t i = 0; i < psk.Length(); i++) {
    const auto entry = psk.Get(i).As<Napi::Object>();
    const auto key = entry.Get("key").As<Napi::Uint8Array>();
    credentials.psk.push_back(
        {TextField(entry, "identity"), {key.Data(), key.Data() + key.ByteLength()}});
  }
  return credentials;
}

const tls::Provider& ProviderOrThrow(Napi::Env env) {
  std::string why;
  const tls::Provider* provider = tls::LoadProvider(&why);
  if (provider == nullptr) throw MakeError(env, Status(Code::kNotFound, why));
  return *provider;
}

// tlsVersion() -> "3.0.19", or throws NOT_FOUND with the reason why there is no native TLS
Napi::Value Version(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), ProviderOrThrow(info.Env()).Version());
}

// tlsContext({certificate, key, ca, crl, verifyPeer, psk}) -> context
Napi::Value NewContext(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Result<std::unique_ptr<tls::Context>> context =
      ProviderOrThrow(env).NewContext(CredentialsArgument(info));
  if (!context.ok()) throw MakeError(env, context.status());
  return Hold(env, HeldContext{std::move(context.value())});
}

// tlsSession(context) -> session
Napi::Value NewSession(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::unique_ptr<Session> session = Held<HeldContext>(info, 0).context->NewSession();
  if (!session) throw MakeError(env, Status(Code::kLimit, "no memory for a TLS session"));
  return Hold(env, HeldSession{std::move(session), false});
}

// Gives OpenSSL what fits of `bytes`.
size_t Feed(Session& session, const uint8_t* bytes, size_t count) {
  size_t room = 0;
  uint8_t* to = session.InputRoom(&room);
  const size_t fed = std::min(room, count);
  std::memcpy(to, bytes, fed);
  session.InputArrived(fed);
  return fed;
}

// Everything that can be decrypted now.
Step DecryptAll(Session& session, std::vector<uint8_t>* plain) {
  for (;;) {
    const size_t before = plain->size();
    plain->resize(before + tls::kRecordBytes);
    size_t got = 0;
    const Step step = session.Decrypt(plain->data() + before, tls::kRecordBytes, &got);
    plain->resize(before + (step == Step::kData ? got : 0));
    if (step != Step::kData) return step;
  }
}

const char* StateName(const HeldSession& held, Step step) {
  if (step == Step::kBroken) return "broken";
  if (step == Step::kEnd) return "ended";
  return held.open ? "open" : "handshake";
}

// tlsReceive(session, bytes) -> {state: "handshake"|"open"|"ended"|"broken", data, output, error}
Napi::Value Receive(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Session& session = SessionArgument(info);
  HeldSession& held = Held<HeldSession>(info, 0);
  const std::vector<uint8_t> bytes = BytesArgument(info, 1, "bytes", nbd::kMaxLeftoverBytes);
  std::vector<uint8_t> plain;
  Step step = Step::kWantInput;
  size_t fed = 0;
  do {
    fed += Feed(session, bytes.data() + fed, bytes.size() - fed);
    if (!held.open) {
      step = session.Accept();
      held.open = step == Step::kData;
    }
    if (held.open) step = DecryptAll(session, &plain);
  } while (step == Step::kWantInput && fed < bytes.size());
  Napi::Object result = Napi::Object::New(env);
  result.Set("state", StateName(held, step));
  result.Set("data", Bytes(env, plain.data(), plain.size()));
  result.Set("output", TakeOutput(env, session));
  result.Set("error", session.error());
  return result;
}

// tlsSend(session, bytes) -> output
Napi::Value Send(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Session& session = SessionArgument(info);
  const std::vector<uint8_t> bytes = BytesArgument(info, 1, "bytes", SIZE_MAX);
  std::vector<uint8_t> all;
  size_t taken = 0;
  do {
    taken += session.Encrypt(bytes.data() + taken, bytes.size() - taken);
    size_t count = 0;
    const uint8_t* output = session.Output(&count);
    session.OutputSent();
    all.insert(all.end(), output, output + count);
    if (count == 0) break;
  } while (taken < bytes.size());
  if (taken < bytes.size()) throw MakeError(env, Status(Code::kIo, "TLS: " + session.error()));
  return Bytes(env, all.data(), all.size());
}

// tlsEnd(session) -> output, with close_notify
Napi::Value End(const Napi::CallbackInfo& info) {
  Session& session = SessionArgument(info);
  session.End();
  return TakeOutput(info.Env(), session);
}

// tlsHold(session, bytes): ciphertext that the connection is to decrypt.
void HoldInput(const Napi::CallbackInfo& info) {
  Session& session = SessionArgument(info);
  const std::vector<uint8_t> bytes = BytesArgument(info, 1, "bytes", nbd::kMaxLeftoverBytes);
  if (Feed(session, bytes.data(), bytes.size()) < bytes.size()) {
    throw MakeError(info.Env(), Status(Code::kLimit, "more ciphertext than can be held"));
  }
}

// tlsPeer(session) -> {protocol, cipher, certificate (DER) or undefined, pskIdentity or undefined}
Napi::Value GetPeer(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const tls::Peer peer = SessionArgument(info).GetPeer();
  Napi::Object result = Napi::Object::New(env);
  result.Set("protocol", peer.protocol);
  result.Set("cipher", peer.cipher);
  if (!peer.certificate.empty()) {
    result.Set("certificate", Bytes(env, peer.certificate.data(), peer.certificate.size()));
  }
  if (!peer.psk_identity.empty()) result.Set("pskIdentity", peer.psk_identity);
  return result;
}

// socketPair() -> [fd, fd] of a unix stream, both non-blocking: for the bridge
Napi::Value SocketPair(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0) {
    throw MakeError(env, Status(Code::kLimit, std::string("socketpair: ") + std::strerror(errno)));
  }
  Napi::Array pair = Napi::Array::New(env, 2);
  for (uint32_t i = 0; i < 2; i++) pair.Set(i, Napi::Number::New(env, fds[i]));
  return pair;
}

}  // namespace

std::unique_ptr<nbd::SecureStream> TakeSession(const Napi::CallbackInfo& info, size_t index) {
  if (info[index].IsUndefined()) return nullptr;
  HeldSession& held = Held<HeldSession>(info, index);
  if (!held.session || !held.open) {
    throw MakeError(info.Env(), Status(Code::kInvalid, "the TLS session is not open"));
  }
  return std::move(held.session);
}

void AddTls(Napi::Env env, Napi::Object exports) {
  const auto add = AdderTo(env, exports);
  add("tlsVersion", Version);
  add("tlsContext", NewContext);
  add("tlsSession", NewSession);
  add("tlsReceive", Receive);
  add("tlsSend", Send);
  add("tlsEnd", End);
  add("tlsHold", HoldInput);
  add("tlsPeer", GetPeer);
  add("socketPair", SocketPair);
}

}  // namespace flashlun::binding
