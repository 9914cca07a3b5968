// TLS sessions and encrypted connections: handshakes that must and must not succeed, and what only
// an encrypted stream can do. That everything else holds with TLS too is nbd_connection_over_tls.
#include <sys/resource.h>

#include <thread>

#include "test/nbd_fixture.h"
#include "test/tls_pair.h"
#include "tls/limits.h"

namespace flashlun::nbd {
namespace {

using Step = SecureStream::Step;

struct Pair {
  int server;
  int client;
  Pair() {
    int fds[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    server = fds[0];
    client = fds[1];
    const timeval timeout{kDeadline.count(), 0};
    for (const int fd : fds) ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  }
  ~Pair() {
    ::close(server);
    ::close(client);
  }
};

// What came of one handshake: the server's verdict, and the client's.
struct Outcome {
  bool accepted;
  std::string server_error;
  std::string client_error;
  tls::Peer peer;
};

Outcome Try(const tls::Credentials& credentials, const ClientSettings& settings) {
  Pair pair;
  auto [session, client] = Handshake(credentials, settings, pair.server, pair.client);
  Outcome outcome{session->Accept() == Step::kData, session->error(), client->error(), {}};
  if (outcome.accepted) outcome.peer = session->GetPeer();
  return outcome;
}

tls::Credentials PskCredentials(uint8_t fill) {
  tls::Credentials credentials;
  credentials.psk = {{"alice", std::vector<uint8_t>(32, fill)},
                     {"bob", std::vector<uint8_t>(16, 2)}};
  return credentials;
}

ClientSettings Psk(const std::string& identity, uint8_t fill, int version = 0) {
  ClientSettings settings;
  settings.psk_identity = identity;
  settings.psk = std::vector<uint8_t>(32, fill);
  settings.version = version;
  if (version == TLS1_2_VERSION) settings.ciphers12 = "DHE-PSK-AES128-GCM-SHA256";
  return settings;
}

// A connection of the fixture with these ends.
struct Encrypted {
  std::unique_ptr<Client> client;
  TlsClient* tls = nullptr;
};

Encrypted ConnectWith(Fixture& fixture, const tls::Credentials& credentials,
                      const ClientSettings& settings = {}, bool tcp = false) {
  Encrypted made;
  TheSecureHook() = [&](int server, int client) {
    auto [session, peer] = Handshake(credentials, settings, server, client);
    REQUIRE(session->Accept() == Step::kData);
    made.tls = peer.get();
    return std::pair<std::unique_ptr<SecureStream>, std::unique_ptr<ClientStream>>(
        std::move(session), std::move(peer));
  };
  Options options;
  options.tcp = tcp;
  made.client = fixture.Connect(std::move(options));
  TheSecureHook() = nullptr;
  return made;
}

}  // namespace

TEST_CASE("TLS 1.3 is preferred, 1.2 works with forward secrecy, older is refused") {
  Authority authority;
  const tls::Credentials credentials = ServerCredentials(authority);
  const Outcome best = Try(credentials, {});
  CHECK(best.accepted);
  CHECK(best.peer.protocol == "TLSv1.3");
  CHECK(best.peer.cipher == "TLS_AES_128_GCM_SHA256");
  CHECK(best.peer.certificate.empty());

  ClientSettings older;
  older.version = TLS1_2_VERSION;
  const Outcome good = Try(credentials, older);
  CHECK(good.accepted);
  CHECK(good.peer.cipher == "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256");

  older.version = TLS1_1_VERSION;
  older.ciphers12 = "ALL:@SECLEVEL=0";
  CHECK_FALSE(Try(credentials, older).accepted);
  older.version = TLS1_2_VERSION;
  older.ciphers12 = "ECDHE-ECDSA-AES128-SHA256";  // no AEAD
  CHECK_FALSE(Try(credentials, older).accepted);
}

TEST_CASE("a client's certificate must be of the CA, and not revoked") {
  Authority authority;
  Authority stranger;
  tls::Credentials credentials = ServerCredentials(authority);
  credentials.verify_peer = tls::VerifyPeer::kRequired;
  ClientSettings alice;
  alice.identity = authority.Issue("alice");
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    CAPTURE(version);
    alice.version = version;
    const Outcome good = Try(credentials, alice);
    CHECK(good.accepted);
    CHECK_FALSE(good.peer.certificate.empty());
    ClientSettings nobody;
    nobody.version = version;
    CHECK(Try(credentials, nobody).server_error == "peer did not return a certificate");
    ClientSettings foreign = nobody;
    foreign.identity = stranger.Issue("alice");
    const Outcome refused = Try(credentials, foreign);
    CHECK_FALSE(refused.accepted);
    CHECK(refused.server_error == "certificate verify failed (certificate signature failure)");
  }
  credentials.crl = authority.Revoke({alice.identity});
  const Outcome revoked = Try(credentials, alice);
  CHECK(revoked.server_error == "certificate verify failed (certificate revoked)");
  ClientSettings bob;
  bob.identity = authority.Issue("bob");
  CHECK(Try(credentials, bob).accepted);
}

TEST_CASE("an optional certificate may be missing, but not wrong") {
  Authority authority;
  Authority stranger;
  tls::Credentials credentials = ServerCredentials(authority);
  credentials.verify_peer = tls::VerifyPeer::kOptional;
  const Outcome without = Try(credentials, {});
  CHECK(without.accepted);
  CHECK(without.peer.certificate.empty());
  ClientSettings foreign;
  foreign.identity = stranger.Issue("alice");
  CHECK_FALSE(Try(credentials, foreign).accepted);
}

TEST_CASE("pre-shared keys: the identity counts only with its key") {
  const tls::Credentials credentials = PskCredentials(1);
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    CAPTURE(version);
    const Outcome alice = Try(credentials, Psk("alice", 1, version));
    CHECK(alice.accepted);
    CHECK(alice.peer.psk_identity == "alice");
    CHECK_FALSE(Try(credentials, Psk("alice", 9, version)).accepted);
    CHECK_FALSE(Try(credentials, Psk("mallory", 1, version)).accepted);
    CHECK_FALSE(Try(credentials, Psk("bob", 1, version)).accepted);
  }
  // The key's hash is SHA-256, so a client with SHA-384 suites only cannot use it. Without a
  // certificate nothing is left, and above all not the identity.
  ClientSettings other = Psk("alice", 9, TLS1_3_VERSION);
  other.ciphers13 = "TLS_AES_256_GCM_SHA384";
  CHECK_FALSE(Try(credentials, other).accepted);
  CHECK_FALSE(Try(credentials, ClientSettings{}).accepted);
}

TEST_CASE("credentials that cannot be used are refused, and say which part") {
  Authority authority;
  const tls::Credentials good = ServerCredentials(authority);
  const auto refused = [&](const std::function<void(tls::Credentials*)>& change) {
    tls::Credentials credentials = good;
    change(&credentials);
    const auto context = tls::GetProvider()->NewContext(credentials);
    return context.ok() ? std::string("accepted") : context.status().message();
  };
  CHECK(refused([](auto* c) { c->certificate = "nonsense"; }).find("the server's certificate: ") ==
        0);
  CHECK(refused([](auto* c) {
          c->certificate += "-----BEGIN CERTIFICATE-----\nAAAA\n";
        }).find("the server's certificate: ") == 0);
  CHECK(refused([](auto* c) { c->key = ""; }).find("the server's key: ") == 0);
  CHECK(refused([&](auto* c) {
          c->key = authority.Issue("other").key;
        }).find("the server's key and certificate: ") == 0);
  const auto verifying = [](tls::Credentials* c) { c->verify_peer = tls::VerifyPeer::kRequired; };
  CHECK(refused([&](auto* c) {
          verifying(c);
          c->ca = "";
        }).find("the CA certificate: ") == 0);
  CHECK(refused([&](auto* c) {
          verifying(c);
          c->crl = "nonsense";
        }).find("the revocation list: ") == 0);
  CHECK(refused([](auto* c) { c->psk = {{"short", std::vector<uint8_t>(8, 1)}}; }) != "accepted");
  CHECK(refused([](auto*) {}) == "accepted");
}

TEST_CASE("bytes that are no TLS end the session with an error") {
  Authority authority;
  const auto context = tls::GetProvider()->NewContext(ServerCredentials(authority));
  const std::string plain[] = {"IHAVEOPT\0\0\0\7\0\0\0\4abcd", std::string(4096, 'x'), "GET / "};
  for (const std::string& bytes : plain) {
    const std::unique_ptr<tls::Session> session =
        const_cast<Result<std::unique_ptr<tls::Context>>&>(context).value()->NewSession();
    size_t room = 0;
    uint8_t* to = session->InputRoom(&room);
    std::memcpy(to, bytes.data(), bytes.size());
    session->InputArrived(bytes.size());
    CHECK(session->Accept() == Step::kBroken);
    CHECK(session->error() != "");
    size_t got = 0;
    uint8_t byte;
    CHECK(session->Decrypt(&byte, 1, &got) == Step::kBroken);
    CHECK(session->Encrypt(&byte, 1) == 0);
  }
}

TEST_CASE("keys change both ways on a long connection, and no byte is lost") {
  Authority authority;
  tls::Credentials credentials = ServerCredentials(authority);
  credentials.rekey_records = 5;
  Fixture fixture;
  for (const int version : {TLS1_3_VERSION, TLS1_2_VERSION}) {
    ClientSettings settings;
    settings.version = version;
    Encrypted connection = ConnectWith(fixture, credentials, settings);
    Client& client = *connection.client;
    const std::vector<uint8_t> data = RandomBytes(300000, 7);
    client.Send(Wire(0, kWrite, 1, 0, 300000) + data);
    CHECK(client.ReceiveSimple().error == kWireOk);
    for (uint64_t cookie = 2; cookie < 60; cookie++) {
      client.Send(Wire(0, kRead, cookie, 0, 300000));
      CHECK(client.ReceiveSimple().cookie == cookie);
      CHECK(client.Receive(300000) == data);
    }
    // The server's, and the client's answers; TLS 1.2 has none.
    CHECK((connection.tls->key_updates() > 100) == (version == TLS1_3_VERSION));
    client.Send(Wire(0, kDisconnect, 0, 0, 0));
    CHECK(client.AtEnd());
    CHECK(fixture.Ended().reason == CloseReason::kDisconnect);
  }
}

TEST_CASE("a session is closed by close_notify, also after a violation and by Stop") {
  Authority authority;
  const tls::Credentials credentials = ServerCredentials(authority);
  Fixture fixture;
  for (const bool tcp : {false, true}) {
    CAPTURE(tcp);
    Encrypted leaving = ConnectWith(fixture, credentials, {}, tcp);
    leaving.client->Send(Wire(0, kDisconnect, 0, 0, 0));
    CHECK(leaving.client->AtEnd());
    CHECK(leaving.tls->ended_in_order());
    CHECK(fixture.Ended().reason == CloseReason::kDisconnect);

    Encrypted wrong = ConnectWith(fixture, credentials, {}, tcp);
    wrong.client->Send(std::vector<uint8_t>(kRequestBytes, 0));
    CHECK(wrong.client->AtEnd());
    CHECK(wrong.tls->ended_in_order());
    CHECK(fixture.Ended().reason == CloseReason::kProtocol);

    Encrypted stopped = ConnectWith(fixture, credentials, {}, tcp);
    fixture.server->Stop(fixture.last_id);
    CHECK(stopped.client->AtEnd());
    CHECK(stopped.tls->ended_in_order());
    CHECK(fixture.Ended().reason == CloseReason::kStopped);
  }
}

TEST_CASE("parking ends a session by close_notify, and parks the plain connections") {
  Authority authority;
  const tls::Credentials credentials = ServerCredentials(authority);
  Fixture fixture;
  for (const bool tcp : {false, true}) {
    CAPTURE(tcp);
    Encrypted secret = ConnectWith(fixture, credentials, {}, tcp);
    const auto plain = fixture.Connect({.tcp = tcp});
    const uint64_t plain_id = fixture.last_id;
    REQUIRE(fixture.server->ParkAll().ok());
    CHECK(secret.client->AtEnd());
    CHECK(secret.tls->ended_in_order());
    CHECK(fixture.Ended().reason == CloseReason::kStopped);
    REQUIRE(fixture.server->Parked().size() == 1);
    CHECK(fixture.server->Parked()[0].id == plain_id);
    fixture.server->UnparkAll();
    plain->Send(Wire(0, kDisconnect, 0, 0, 0));
    CHECK(fixture.Ended().reason == CloseReason::kDisconnect);
  }
}

TEST_CASE("a client that has only ended its sending side gets its replies") {
  Authority authority;
  Fixture fixture;
  Encrypted connection = ConnectWith(fixture, ServerCredentials(authority));
  fixture.gates.HoldFlushes(true);
  connection.client->Send(Wire(0, kFlush, 1, 0, 0) + Wire(0, kRead, 2, 0, 4096));
  connection.tls->End();
  CHECK(connection.client->ReceiveSimple().cookie == 2);
  connection.client->Receive(4096);
  fixture.gates.HoldFlushes(false);
  CHECK(connection.client->ReceiveSimple().cookie == 1);
  CHECK(connection.client->AtEnd());
  CHECK(connection.tls->ended_in_order());
  CHECK(fixture.Ended().reason == CloseReason::kEof);
}

TEST_CASE("a client that closes without close_notify is an end of file") {
  Authority authority;
  Fixture fixture;
  Encrypted connection = ConnectWith(fixture, ServerCredentials(authority));
  connection.client->Send(Wire(0, kWrite, 1, 0, 4096));  // the payload never comes
  connection.client->Close();
  CHECK(fixture.Ended().reason == CloseReason::kEof);
}

TEST_CASE("a record that was changed on the way ends the connection before it is used") {
  Authority authority;
  Fixture fixture;
  Encrypted connection = ConnectWith(fixture, ServerCredentials(authority));
  connection.client->Send(Wire(0, kRead, 1, 0, 512));
  CHECK(connection.client->ReceiveSimple().error == kWireOk);
  connection.client->Receive(512);
  // A record of application data by its header, encrypted with no key of ours.
  std::vector<uint8_t> forged = {23, 3, 3, 0, 64};
  forged.resize(5 + 64, 0xa5);
  REQUIRE(::send(connection.client->fd(), forged.data(), forged.size(), MSG_NOSIGNAL) == 69);
  const CloseReport report = fixture.Ended();
  CHECK(report.reason == CloseReason::kIo);
  CHECK(report.detail.find("TLS: ") == 0);
  CHECK(report.requests == 1);
}

TEST_CASE("a client of TLS 1.2 that asks for renegotiation gets none") {
  Authority authority;
  Fixture fixture;
  ClientSettings settings;
  settings.version = TLS1_2_VERSION;
  Encrypted connection = ConnectWith(fixture, ServerCredentials(authority), settings);
  SSL_renegotiate(connection.tls->ssl());
  // OpenSSL answers with a warning and its client takes that for the end.
  CHECK(SSL_do_handshake(connection.tls->ssl()) != 1);
  connection.client->Close();
  fixture.Ended();
}

TEST_CASE("requests may come in records of any size, and pieces of records") {
  Authority authority;
  Fixture fixture;
  Encrypted connection = ConnectWith(fixture, ServerCredentials(authority));
  const std::vector<uint8_t> data = RandomBytes(40000, 3);
  const std::vector<uint8_t> all = Wire(0, kWrite, 1, 512, 40000) + data;
  std::mt19937 random(5);
  for (size_t sent = 0; sent < all.size();) {
    const size_t most = random() % 4 == 0 ? 5000 : 9;
    const size_t count = std::min(all.size() - sent, 1 + random() % most);
    connection.client->Send(
        {all.begin() + static_cast<long>(sent), all.begin() + static_cast<long>(sent + count)});
    sent += count;
  }
  CHECK(connection.client->ReceiveSimple().error == kWireOk);
  // The largest READ: many records, through the output buffer many times.
  connection.client->Send(Wire(0, kRead, 2, 0, kMaxPayloadBytes));
  CHECK(connection.client->ReceiveSimple().error == kWireOk);
  const std::vector<uint8_t> got = connection.client->Receive(kMaxPayloadBytes);
  CHECK(std::equal(data.begin(), data.end(), got.begin() + 512));
}

}  // namespace flashlun::nbd
