// docs/format.md against the code: the bytes of its worked example are those of a real pool.
//
// The pool is made with a fixed uuid and clock, so its bytes are always the same. With
// FLASHLUN_EXAMPLE_DIR set it is made there and stays, for whoever changes the format and has to
// write the example anew.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "core/limits.h"
#include "core/store.h"
#include "core/superblock.h"
#include "test/forwarding_io.h"

namespace flashlun {
namespace {

class ExampleIo final : public ForwardingIo {
 public:
  std::string NewUuid() override { return "11111111-2222-4333-8444-555555555555"; }
  std::string BootId() override { return "66666666-7777-4888-8999-aaaaaaaaaaaa"; }
  int64_t UnixMs() override { return 1'790'000'000'000; }
};

// Volume 1203, 16 MiB; 4 KiB at offset 0, 64 KiB at 1 MiB; closed.
void MakeExample(const std::string& dir) {
  ExampleIo io;
  StoreOptions options;
  options.dir = dir;
  options.capacity_bytes = uint64_t{1} << 30;
  options.journal_blocks = 64;
  options.kill_ring_bytes = 16384;
  options.autocommit_ms = 600'000;
  Result<std::unique_ptr<Store>> opened = Store::Open(io, options);
  REQUIRE(opened.ok());
  Store& store = *opened.value();
  REQUIRE(store.CreateVolume(0x1203, 16 << 20, "example").ok());
  OpSlot* slot = store.AcquireSlot();
  {
    Volume volume = store.Attach(0x1203).value();
    const std::vector<char> data(kTrackBytes, 'x');
    REQUIRE(volume.Write(*slot, 0, data.data(), kSubBytes).ok());
    REQUIRE(volume.Write(*slot, 1 << 20, data.data(), kTrackBytes).ok());
    REQUIRE(store.Flush().ok());
  }
  store.ReleaseSlot(slot);
  REQUIRE(store.Close().ok());
}

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE_MESSAGE(in.good(), path);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

// One listing of the example: "at 0x101000, 4096 bytes", then lines `OFFSET  HEX...  text`, one
// space between two bytes and two before the text; `BEGIN-END` repeats the bytes. Bytes that no
// line names are zero.
struct Listing {
  uint64_t at = 0;
  std::string bytes;
};

std::vector<Listing> ParseListings(const std::string& document) {
  std::istringstream lines(document.substr(document.find("## Worked example")));
  std::vector<Listing> listings;
  for (std::string line; std::getline(lines, line);) {
    unsigned long long at = 0;
    unsigned length = 0;
    unsigned offset = 0;
    unsigned end = 0;
    int used = 0;
    if (std::sscanf(line.c_str(), "at 0x%llx, %u bytes", &at, &length) == 2) {
      listings.push_back({at, std::string(length, '\0')});
    } else if (!listings.empty() && std::sscanf(line.c_str(), "%4x%n", &offset, &used) == 1 &&
               used == 4) {
      if (std::sscanf(line.c_str(), "%4x-%4x%n", &offset, &end, &used) != 2) end = offset + 1;
      const size_t begin = line.find_first_not_of(' ', static_cast<size_t>(used));
      const std::string hex = line.substr(begin, line.find("  ", begin) - begin);
      while (offset < end) {
        std::istringstream in(hex);
        for (std::string byte; in >> byte; ++offset)
          listings.back().bytes.at(offset) = static_cast<char>(std::stoul(byte, nullptr, 16));
      }
    }
  }
  return listings;
}

std::string Hex(const std::string& bytes, size_t at) {
  std::string text;
  char two[4];
  for (size_t i = at; i < std::min(at + 16, bytes.size()); ++i) {
    std::snprintf(two, sizeof two, "%02x ", static_cast<unsigned char>(bytes[i]));
    text += two;
  }
  return text;
}

TEST_CASE("the worked example of docs/format.md is what the code writes") {
  const char* kept = std::getenv("FLASHLUN_EXAMPLE_DIR");
  char name[] = "/tmp/flashlun-native-XXXXXX";
  const std::string dir = kept != nullptr ? kept : ::mkdtemp(name);
  MakeExample(dir + "/pool");
  const std::string meta = ReadAll(dir + "/pool/meta");
  if (kept == nullptr) std::filesystem::remove_all(dir);
  const auto source = std::filesystem::path(__FILE__).parent_path();
  const std::vector<Listing> listings = ParseListings(ReadAll(source / "../../docs/format.md"));
  CHECK(listings.size() == 3);
  for (const Listing& listing : listings) {
    const std::string real = meta.substr(listing.at, listing.bytes.size());
    for (size_t at = 0; at < real.size(); at += 16)
      CHECK_MESSAGE(real.substr(at, 16) == listing.bytes.substr(at, 16),
                    "byte " << at << " behind " << listing.at << ": the code writes "
                            << Hex(real, at) << ", documented " << Hex(listing.bytes, at));
  }
}

}  // namespace
}  // namespace flashlun
