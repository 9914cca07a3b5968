// The map by itself: counts, copies made ahead, what a drop gives back.
#include "core/map.h"

#include <doctest/doctest.h>

#include <memory>

namespace flashlun {
namespace {

constexpr uint64_t kTracks = kIndexTracks + 3 * kLeafTracks;

class MapFixture {
 public:
  MapFixture() {
    TrackRun run;
    while (map.allocator().NextGrowth(0, 1024, &run)) map.allocator().MakeReady(run);
  }

  uint64_t MapTrack(VolumeState& volume, uint64_t track) {
    const uint64_t own = map.allocator().Allocate({}, false);
    map.SetEntry(volume, track, Entry::Full(own), ++lsn);
    return own;
  }
  // As if every drop so far were durable and every reader gone.
  void ApplyDrops() {
    std::vector<Drop> work;
    work.swap(map.drops());
    std::vector<uint64_t> unreferenced;
    while (!work.empty()) {
      const Drop drop = work.back();
      work.pop_back();
      map.Dismantle(map.Apply(drop), &work, &unreferenced);
    }
    for (const uint64_t track : unreferenced) map.allocator().Free(track);
  }
  // The end of everything: a reference too many or too few shows.
  void CheckNothingIsLeft() {
    map.DropTree(a, ++lsn);
    map.DropTree(b, ++lsn);
    ApplyDrops();
    CHECK(map.allocator().used() == 0);
  }

  Map map{4 * kLeafTracks};
  VolumeState a{0x1000, kTracks* kTrackBytes};
  VolumeState b{0x1001, kTracks* kTrackBytes};
  uint64_t lsn = 0;
};

TEST_CASE_FIXTURE(MapFixture, "copies made ahead are installed when nothing changed") {
  const uint64_t old = MapTrack(a, 0);
  Entry part;
  part.own = map.allocator().Allocate({}, false);
  part.mask = 1;
  map.SetEntry(a, 1, part, ++lsn);
  map.Share(a, b, ++lsn);
  NodeCopies ahead;
  map.CopyAhead(b, 0, &ahead);
  REQUIRE(ahead.index != nullptr);
  REQUIRE(ahead.leaf != nullptr);
  CHECK(map.allocator().Count(old) == 2);
  CHECK(map.allocator().Count(part.own) == 2);
  map.SetEntry(b, 0, Entry::Full(map.allocator().Allocate({}, false)), ++lsn, &ahead);
  CHECK(ahead.index == nullptr);
  CHECK(ahead.leaf == nullptr);
  map.GiveBack(&ahead);
  CHECK(map.FindEntry(a, 0).own == old);
  CHECK(map.FindEntry(b, 0).own != old);
  CHECK(map.FindEntry(b, 1).mask == 1);
  CHECK(map.FindEntry(b, 1).inherited);
  ApplyDrops();
  CHECK(map.Find(b, 0).exclusive);
  CHECK(map.Find(a, 0).exclusive);
  CHECK_FALSE(map.Find(b, 1).exclusive);
  CheckNothingIsLeft();
}

TEST_CASE_FIXTURE(MapFixture, "copies of nodes that changed meanwhile are given back") {
  MapTrack(a, 0);
  MapTrack(a, 1);
  MapTrack(a, kLeafTracks);
  map.Share(a, b, ++lsn);
  NodeCopies ahead;
  map.CopyAhead(a, 0, &ahead);
  SUBCASE("the other owner leaves and the node is edited in place") {
    map.DropTree(b, ++lsn);
    ApplyDrops();
    const uint64_t fresh = MapTrack(a, 1);
    map.SetEntry(a, 0, Entry::Full(map.allocator().Allocate({}, false)), ++lsn, &ahead);
    CHECK(map.FindEntry(a, 1).own == fresh);
  }
  SUBCASE("and then it is shared again: the same node, another content") {
    map.DropTree(b, ++lsn);
    ApplyDrops();
    map.GiveBack(&ahead);
    NodeCopies second;
    map.Share(a, b, ++lsn);
    map.CopyAhead(a, 0, &second);
    const Leaf* leaf = second.leaf_from;
    map.DropTree(b, ++lsn);
    ApplyDrops();
    // Edits while it is not shared, by index node and by leaf.
    Leaf* same = a.root[0].load()->leaves[0].load();
    REQUIRE(same == leaf);
    while (same->owners.load() != 1) same->owners.fetch_sub(1);  // our own early count
    const uint64_t fresh = MapTrack(a, 1);
    same->owners.fetch_add(1);
    MapTrack(a, 2 * kLeafTracks);
    map.Share(a, b, ++lsn);
    map.SetEntry(a, 0, Entry::Full(map.allocator().Allocate({}, false)), ++lsn, &second);
    CHECK(map.FindEntry(a, 1).own == fresh);
    CHECK(map.FindEntry(a, 2 * kLeafTracks).mapped());
    CHECK(map.FindEntry(b, 1).own == fresh);
    map.GiveBack(&second);
  }
  map.GiveBack(&ahead);
  CheckNothingIsLeft();
}

TEST_CASE_FIXTURE(MapFixture, "a copy of an index node does not outlive a new leaf in it") {
  MapTrack(a, 0);
  map.Share(a, b, ++lsn);
  NodeCopies ahead;
  map.CopyAhead(b, 0, &ahead);
  // a leaves, b's node gets a leaf, and a comes back as a copy of b.
  map.DropTree(a, ++lsn);
  ApplyDrops();
  const uint64_t fresh = MapTrack(b, kLeafTracks);
  map.Share(b, a, ++lsn);
  map.SetEntry(b, 1, Entry::Full(map.allocator().Allocate({}, false)), ++lsn, &ahead);
  CHECK(map.FindEntry(b, kLeafTracks).own == fresh);
  map.GiveBack(&ahead);
  CheckNothingIsLeft();
}

TEST_CASE_FIXTURE(MapFixture, "leaves and index nodes without entries are given up") {
  MapTrack(a, 0);
  MapTrack(a, kLeafTracks);
  MapTrack(a, kIndexTracks);
  map.SetEntry(a, 0, Entry{}, ++lsn);
  CHECK(a.root[0].load()->leaves[0].load() == nullptr);
  CHECK(a.root[0].load()->leaves[1].load() != nullptr);
  map.SetEntry(a, kLeafTracks, Entry{}, ++lsn);
  CHECK(a.root[0].load() == nullptr);
  CHECK(a.root[1].load() != nullptr);
  // A leaf that comes back is not inherited, whatever the slot was before.
  map.Share(a, b, ++lsn);
  map.SetEntry(b, 5, Entry::Full(map.allocator().Allocate({}, false)), ++lsn);
  CHECK_FALSE(map.Inherited(b, 5));
  ApplyDrops();
  CHECK(map.allocator().used() == 2);
  CheckNothingIsLeft();
}

TEST_CASE_FIXTURE(MapFixture, "mapped counts stay right through shares of every shape") {
  VolumeState small{0x1002, (kLeafTracks + 9) * kTrackBytes};
  for (const uint64_t track : {0, 7, 511, 512, 520}) MapTrack(small, track);
  for (const uint64_t track : {3ul, 512ul, 521ul, 522ul, 5000ul, kIndexTracks + 1})
    MapTrack(b, track);
  CHECK(b.mapped_tracks == 6);
  b.target_of = 1;
  map.Share(small, b, ++lsn);
  CHECK(b.mapped_tracks == 5 + 4);
  CHECK(b.inherited_tracks == 5);
  CHECK(b.root[0].load()->mapped == 8);
  map.Share(b, a, ++lsn);
  CHECK(a.mapped_tracks == 9);
  a.Grow(2 * kTracks * kTrackBytes);
  MapTrack(a, 2 * kTracks - 1);
  map.SetEntry(a, 0, Entry{}, ++lsn);
  CHECK(a.mapped_tracks == 9);
  map.Share(small, a, ++lsn);
  CHECK(a.mapped_tracks == 5 + 5);
  map.DropTree(small, ++lsn);
  CheckNothingIsLeft();
}

TEST_CASE("a growing array keeps its elements where they are") {
  Growing<std::atomic<uint64_t>> array(1);
  std::vector<std::atomic<uint64_t>*> places;
  for (size_t size : {1, 2, 3, 10, 1000, 32768}) {
    array.GrowTo(size);
    REQUIRE(array.size() == size);
    for (size_t i = 0; i < places.size(); ++i) REQUIRE(&array[i] == places[i]);
    while (places.size() < size) {
      places.push_back(&array[places.size()]);
      REQUIRE(places.back()->load() == 0);
      *places.back() = places.size();
    }
  }
  uint64_t expected = 0;
  for (const auto& element : array) REQUIRE(element.load() == ++expected);
}

}  // namespace
}  // namespace flashlun
