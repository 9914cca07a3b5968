// A whole pool with damaged metadata: Store::Open says what is wrong, or gives a store that can be
// read, written, closed and opened again.
//
// The input is a list of edits of a small pool made at start-up. Nothing here knows the format:
// files are found by listing them, and edits go to the parts of them that are not zero. With
// checksums switched off (fuzz.h) every edit reaches the decoder behind the checksum.
#include <malloc.h>

#include <algorithm>

#include "core/check.h"
#include "core/store.h"
#include "fuzz/fuzz.h"
#include "fuzz/memory_io.h"

using namespace flashlun;

namespace {

constexpr uint64_t kTracks = 24;
constexpr uint16_t kA = 0x1203;
constexpr uint16_t kB = 0x1303;
constexpr uint16_t kC = 0x1304;
// What is edited at a time; small against any structure on disk.
constexpr size_t kPlaceBytes = 64;
constexpr size_t kMostEdits = 32;
// How far bytes move that are inserted or taken out: two pages.
constexpr size_t kMovedBytes = 8192;

StoreOptions Options() {
  StoreOptions options;
  options.dir = "pool";
  options.capacity_bytes = 256 * kTrackBytes;
  options.journal_blocks = 16;
  options.kill_ring_bytes = 16384;
  options.autocommit_ms = 600'000;
  return options;
}

struct Place {
  std::string path;
  uint64_t offset;
};

struct Image {
  std::unique_ptr<MemoryIo> files;
  std::vector<Place> places;  // the parts of the metadata that are not zero
};

void Fill(Store& store, uint16_t id, uint64_t offset, size_t length, int fill) {
  OpSlot* slot = store.AcquireSlot();
  const std::vector<char> data(length, static_cast<char>(fill));
  FL_CHECK(store.Attach(id).value().Write(*slot, offset, data.data(), length).ok());
  store.ReleaseSlot(slot);
}

void Change(Store& store, int fill) {
  std::vector<uint64_t> ids;
  Fill(store, kA, 0, 3 * kTrackBytes, fill);
  const PairSpec pairs[] = {{kA, kB, kRelNoCopy}, {kA, kC, 0}};
  FL_CHECK(store.Establish(pairs, &ids).ok());
  Fill(store, kA, kTrackBytes, 5 * kSubBytes, fill + 1);
  Fill(store, kB, 2 * kTrackBytes + 512, 1000, fill + 2);
  FL_CHECK(store.CopyBatch(ids[1], 0, 1).ok());
  FL_CHECK(store.Flush().ok());
  FL_CHECK(store.Withdraw(ids[0]).ok());
}

Image ImageOf(const MemoryIo& io) {
  Image image{io.Copy(), {}};
  for (const std::string& path : image.files->Paths()) {
    if (path.ends_with("/tracks")) continue;
    const MemoryIo::Bytes bytes = image.files->ContentOf(path);
    for (uint64_t at = 0; at < bytes.size(); at += kPlaceBytes) {
      const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(at);
      const auto length = std::min<uint64_t>(kPlaceBytes, bytes.size() - at);
      if (std::any_of(begin, begin + static_cast<std::ptrdiff_t>(length),
                      [](uint8_t byte) { return byte != 0; }))
        image.places.push_back({path, at});
    }
  }
  return image;
}

// Two pools: one closed in order, one killed with records in the journal and in the kill ring.
std::vector<Image> MakeImages(bool checksums) {
  g_checksums = checksums;
  std::vector<Image> images;
  MemoryIo io;
  {
    std::unique_ptr<Store> store = std::move(Store::Open(io, Options()).value());
    for (const uint16_t id : {kA, kB, kC})
      FL_CHECK(store->CreateVolume(id, kTracks * kTrackBytes, "name").ok());
    Change(*store, 'a');
    FL_CHECK(store->Withdraw(store->ListRelationships().at(0).id).ok());
    FL_CHECK(store->Close().ok());
  }
  images.push_back(ImageOf(io));
  std::unique_ptr<Store> store = std::move(Store::Open(io, Options()).value());
  Change(*store, 'k');
  Fill(*store, kC, 20 * kTrackBytes, 100, 'r');
  images.push_back(ImageOf(io));
  return images;
}

void Edit(MemoryIo& io, const std::vector<Place>& places, FuzzInput& input) {
  const Place& place = places[input.Take<uint16_t>() % places.size()];
  const uint64_t at = place.offset + input.Take<uint8_t>() % kPlaceBytes;
  const uint8_t how = input.Take<uint8_t>();
  const std::vector<uint8_t> bytes = input.TakeBytes(1 + how / 4 % 16);
  if (how % 4 < 2) return io.Overwrite(place.path, at, bytes);
  if (how % 4 == 3 && how / 4 % 16 == 15) {  // the file ends here
    MemoryIo::Bytes content = io.ContentOf(place.path);
    content.resize(std::min(at, content.size()));
    return io.Replace(place.path, std::move(content));
  }
  // What follows moves, as far as any structure reaches.
  MemoryIo::Bytes moved = io.RangeOf(place.path, at, kMovedBytes);
  const size_t length = moved.size();
  if (how % 4 == 2)
    moved.insert(moved.begin(), bytes.begin(), bytes.end());
  else if (!moved.empty())
    moved.erase(moved.begin());
  moved.resize(length);
  io.Overwrite(place.path, at, moved);
}

// Tracks of every volume where there is something, and the last one; false when a read is refused.
bool ReadAll(Store& store, std::string* content) {
  bool ok = true;
  OpSlot* slot = store.AcquireSlot();
  std::vector<char> track(kTrackBytes);
  for (const VolumeInfo& info : store.ListVolumes()) {
    Volume volume = store.Attach(info.id).value();
    const uint64_t tracks = (info.size_bytes + kTrackBytes - 1) / kTrackBytes;
    for (uint64_t i = 0; i < std::min(tracks, kTracks + 1) && ok; ++i) {
      if (i > 3 && i < kTracks - 4) continue;
      const uint64_t offset = (i == kTracks ? tracks - 1 : i) * kTrackBytes;
      const size_t length = std::min<uint64_t>(kTrackBytes, info.size_bytes - offset);
      ok = volume.Read(*slot, offset, track.data(), length, ReadMode::kBlocking).ok();
      for (size_t at = 0; at < length; at += 512) *content += track[at];
    }
  }
  store.ReleaseSlot(slot);
  return ok;
}

// What a user does next. False when the store refuses something: that is its right.
bool Use(Store& store) {
  bool ok = true;
  OpSlot* slot = store.AcquireSlot();
  const std::vector<char> data(kSubBytes, 'u');
  for (const VolumeInfo& info : store.ListVolumes()) {
    Volume volume = store.Attach(info.id).value();
    const size_t length = std::min<uint64_t>(data.size(), info.size_bytes);
    ok = ok && volume.Write(*slot, 0, data.data(), length).ok();
  }
  store.ReleaseSlot(slot);
  for (const RelationshipInfo& relation : store.ListRelationships())
    ok = ok && store.CopyBatch(relation.id, 0, 8).ok();
  return store.Flush().ok() && ok;
}

void OpenUseReopen(MemoryIo& io) {
  std::string before;
  std::string after;
  {
    Result<std::unique_ptr<Store>> store = Store::Open(io, Options());
    if (!store.ok()) {
      FL_CHECK(!store.status().message().empty());
      return;
    }
    const bool whole = ReadAll(*store.value(), &before) && Use(*store.value());
    before.clear();
    if (!whole || !ReadAll(*store.value(), &before) || !store.value()->Close().ok()) return;
  }
  Result<std::unique_ptr<Store>> again = Store::Open(io, Options());
  FL_CHECK(again.ok());
  FL_CHECK(ReadAll(*again.value(), &after) && after == before);
}

}  // namespace

// A refused open may leave nodes of the tree that it had begun to load: its process ends. A smaller
// quarantine keeps freed memory warm; no block here lives longer than one run.
extern "C" __attribute__((visibility("default"))) const char* __asan_default_options();
extern "C" const char* __asan_default_options() { return "detect_leaks=0:quarantine_size_mb=16"; }

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // The engine's sparse tables stay mappings of their own, not 2 MiB of the heap to be zeroed.
  static const bool sparse = ::mallopt(M_MMAP_THRESHOLD, 1 << 20) != 0;
  (void)sparse;
  static const std::vector<Image> images[] = {MakeImages(false), MakeImages(true)};
  FuzzInput input(data, size);
  const uint8_t which = input.Take<uint8_t>();
  g_checksums = (which & 1) != 0;
  const Image& image = images[which & 1][which >> 1 & 1];
  const std::unique_ptr<MemoryIo> io = image.files->Copy();
  for (size_t edits = 0; input.left() > 2 && edits < kMostEdits; ++edits)
    Edit(*io, image.places, input);
  OpenUseReopen(*io);
  g_checksums = true;
  return 0;
}
