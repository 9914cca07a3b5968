// Makes the connections of nbd_connection_test.cc encrypted ones.
#include "test/tls_pair.h"

namespace flashlun::nbd {
namespace {

std::pair<std::unique_ptr<SecureStream>, std::unique_ptr<ClientStream>> Encrypt(int server,
                                                                                int client) {
  static Authority authority;
  static const tls::Credentials credentials = ServerCredentials(authority);
  auto [session, peer] = Handshake(credentials, {}, server, client);
  REQUIRE(peer->error() == "");
  return {std::move(session), std::move(peer)};
}

[[maybe_unused]] const bool installed = [] {
  TheSecureHook() = Encrypt;
  return true;
}();

}  // namespace
}  // namespace flashlun::nbd
