#include "tls/library.h"

#include <dlfcn.h>

#include <utility>

namespace flashlun::tls {
namespace {

constexpr char kFileName[] = "flashlun_tls.so";

// The folder that the addon was loaded from, with a slash.
std::string OwnFolder() {
  Dl_info info{};
  if (::dladdr(reinterpret_cast<void*>(&LoadProvider), &info) == 0) return "";
  const std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/') + 1);
}

std::pair<const Provider*, std::string> Load() {
  const std::string path = OwnFolder() + kFileName;
  // All symbols now: one that the runtime lacks shall show here and not in a handshake.
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) return {nullptr, ::dlerror()};
  const auto entry = reinterpret_cast<EntryPoint>(::dlsym(library, kEntryPoint));
  const Provider* provider = entry == nullptr ? nullptr : entry();
  if (provider == nullptr) return {nullptr, "it was built for another OpenSSL than this Node has"};
  return {provider, ""};
}

}  // namespace

const Provider* LoadProvider(std::string* why) {
  static const auto* const loaded = new std::pair<const Provider*, std::string>(Load());
  *why = loaded->second;
  return loaded->first;
}

}  // namespace flashlun::tls
