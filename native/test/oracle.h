// Oracle: what every 4 KiB sub-block of every volume may read as, live, after a kill and after a
// power loss.
//
// A location has a list of versions in issue order; a version is a set of values (one, except where
// an establish met writes in flight). Allowed
//   live               the newest acknowledged version or any later one
//   after a kill       the same
//   after power loss   the newest version covered by an acknowledged flush or any later one
//
// A T0 image: the first live read of a location fixes which of the values it is; it must never read
// differently again.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "core/limits.h"

namespace flashlun {

using Value = uint64_t;

// Writes `word` over the bytes [first, first + bytes) of a sub-block. Multiples of 8.
struct Patch {
  uint32_t first = 0, bytes = 0;
  Value word = 0;
};

// The value of a block of `value` after the patch (simulation_pool.cc).
Value Patched(Value value, const Patch& patch);

struct Version {
  std::set<Value> live;
  std::set<Value> crash;
};

struct Location {
  std::vector<Version> versions{Version{{0}, {0}}};
  size_t acked = 0;        // index of the newest acknowledged version
  size_t live_floor = 0;   // as acked, and at least the last flip
  size_t power_floor = 0;  // index of the newest version that a flush covers
  size_t in_flight = 0;    // index of the version being written, when busy
  size_t last_flip = 0;    // index of the version made by the last establish onto this volume
  bool busy = false;       // a write is in flight
  // The write in flight has several parts, and an establish may fall between them: then each part
  // is before or after it.
  bool divisible = false;
  // The write in flight covers only bytes of the sub-block: one patch, or two by two writers at
  // once. What it makes depends on what it finds.
  std::vector<Patch> patches;

  Version from;  // what the patches found
  uint64_t flips = 0, flips_before = 0;

  void Begin(Value value, bool in_parts) {
    divisible = in_parts;
    versions.push_back(Version{{value}, {value}});
    in_flight = versions.size() - 1;
    busy = true;
  }
  // What the patches can make of these values: any of them applied, and with `all` all of them.
  std::set<Value> AfterPatches(const std::set<Value>& values, bool all) const {
    std::set<Value> made;
    for (const Value value : values) {
      Value both = value;
      for (const Patch& patch : patches) {
        both = Patched(both, patch);
        if (!all) made.insert(Patched(value, patch));
      }
      made.insert(both);
    }
    return made;
  }
  void BeginPatches(const std::vector<Patch>& of) {
    patches = of;
    const Version now = Candidates();
    Begin(0, of.size() > 1);
    versions.back() = {AfterPatches(now.live, false), AfterPatches(now.crash, false)};
    from = now;
    flips_before = flips;
  }
  // All patches were answered OK.
  void AcknowledgePatches() {
    if (flips == flips_before) {
      // A power loss may still show one without the other: that is an older version.
      versions.push_back({AfterPatches(from.live, true), AfterPatches(from.crash, true)});
      in_flight = versions.size() - 1;
    }
    patches.clear();
    Acknowledge();
  }
  void Acknowledge() {
    busy = false;
    acked = std::max(acked, in_flight);
    live_floor = std::max(live_floor, in_flight);
  }
  // The write was refused: it may have happened or not.
  void Fail() {
    busy = false;
    patches.clear();
    Version both = versions[live_floor];
    for (size_t i = live_floor + 1; i < versions.size(); ++i) {
      both.live.insert(versions[i].live.begin(), versions[i].live.end());
      both.crash.insert(versions[i].crash.begin(), versions[i].crash.end());
    }
    versions.push_back(both);
    live_floor = versions.size() - 1;
  }
  // The write was refused and has changed nothing.
  void Refuse() {
    busy = false;
    patches.clear();
    versions.erase(versions.begin() + static_cast<std::ptrdiff_t>(in_flight));
  }
  // Values a copy of this location taken now may have.
  Version Candidates() const {
    Version now = versions[live_floor];
    if (busy) {
      now.live.insert(versions[in_flight].live.begin(), versions[in_flight].live.end());
      now.crash.insert(versions[in_flight].crash.begin(), versions[in_flight].crash.end());
    }
    return now;
  }
  // The location becomes a copy. A write of its own that waits at the gate comes after it.
  void Flip(const Version& copy) {
    ++flips;
    if (busy) {
      versions.insert(versions.begin() + static_cast<std::ptrdiff_t>(in_flight), copy);
      last_flip = in_flight++;
      if (divisible) {
        versions[in_flight].live.insert(copy.live.begin(), copy.live.end());
        versions[in_flight].crash.insert(copy.crash.begin(), copy.crash.end());
      }
      if (!patches.empty()) {
        versions[in_flight].live.merge(AfterPatches(copy.live, false));
        versions[in_flight].crash.merge(AfterPatches(copy.crash, false));
      }
    } else {
      versions.push_back(copy);
      last_flip = versions.size() - 1;
    }
    live_floor = std::max(live_floor, last_flip);
  }
  void FlipDurable(size_t flip) {
    acked = std::max(acked, flip);
    power_floor = std::max(power_floor, flip);
  }
  bool LiveAllowsFrom(size_t floor, Value value) const {
    return Allows(floor, value, &Version::live);
  }
  bool CrashAllows(Value value, bool power_loss) const {
    return Allows(power_loss ? power_floor : acked, value, &Version::crash);
  }
  // A quiet location was read as `value`: from now on it is nothing else.
  void Observed(Value value) {
    if (busy || live_floor + 1 != versions.size()) return;
    versions[live_floor].live = {value};
    if (power_floor >= live_floor) versions[live_floor].crash = {value};
  }
  std::string Describe(bool power_loss) const {
    std::string text = "allowed:";
    for (size_t i = power_loss ? power_floor : acked; i < versions.size(); ++i) {
      text += " {";
      for (const Value value : versions[i].crash) text += std::to_string(value) + " ";
      text += "}";
    }
    return text;
  }

 private:
  bool Allows(size_t floor, Value value, std::set<Value> Version::*set) const {
    for (size_t i = floor; i < versions.size(); ++i)
      if ((versions[i].*set).contains(value)) return true;
    return false;
  }
};

// A volume of the simulation: a few tracks at the edges of leaves and index nodes.
struct SimVolume {
  uint16_t id;
  uint64_t tracks;
  std::vector<uint64_t> used;                                  // the tracks that are written
  std::vector<std::array<Location, kSubsPerTrack>> locations;  // parallel to `used`
  uint32_t pool = 0;
  bool thick = false;
  // Every track that it has is in its own pool: no establish since, or its background copy ended.
  bool independent = true;
  bool rest_independent = true;  // of what the last establish did not cover

  SimVolume(uint16_t volume_id, uint64_t track_count, std::vector<uint64_t> used_tracks)
      : id(volume_id), tracks(track_count), used(std::move(used_tracks)), locations(used.size()) {}

  template <typename Visit>
  void ForEach(Visit visit) {
    for (auto& track : locations)
      for (Location& location : track) visit(location);
  }
};

}  // namespace flashlun
