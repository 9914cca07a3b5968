// TrackLocks: order between operations on one track of one volume.
//
//   Pin        an in-place write in flight (path A): any number at a time, the map entry does not
//   change under them exclusive  an operation that may change the entry (paths B, C, zero, trim,
//   background copy): alone, no pins
//
// An exclusive holder therefore never copies out of a track while an older in-place write to it is
// in flight (T2), and an in-place write never lands in a track that the map just left.
//
// No deadlock: nobody holds one track while waiting for another. An exclusive waiter keeps new pins
// out, so it is not starved. Thread safety: all methods.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/check.h"
#include "core/mutation.h"
#include "core/sync.h"

namespace flashlun {

class TrackLocks {
 public:
  static uint64_t Key(uint16_t volume, uint64_t track) { return (track << 16) | volume; }

  void Pin(uint64_t key) {
    Shard& shard = ShardOf(key);
    auto lock = shard.monitor.Acquire();
    for (;;) {
      Held& held = FindOrAdd(shard, key);
      if (!held.exclusive && held.exclusive_waiters == 0) {
        ++held.pins;
        return;
      }
      Wait(shard, lock);
    }
  }

  // As Pin, but false instead of waiting.
  bool TryPin(uint64_t key) {
    Shard& shard = ShardOf(key);
    auto lock = shard.monitor.Acquire();
    for (const Held& held : shard.held)
      if (held.key == key && (held.exclusive || held.exclusive_waiters != 0)) return false;
    ++FindOrAdd(shard, key).pins;
    return true;
  }

  void Unpin(uint64_t key) {
    Shard& shard = ShardOf(key);
    auto lock = shard.monitor.Acquire();
    Held& held = FindOrAdd(shard, key);
    FL_CHECK(held.pins > 0);
    --held.pins;
    Released(shard, held);
  }

  void LockExclusive(uint64_t key) {
    Shard& shard = ShardOf(key);
    auto lock = shard.monitor.Acquire();
    ++FindOrAdd(shard, key).exclusive_waiters;
    for (;;) {
      Held& held = FindOrAdd(shard, key);
      const bool pinned = held.pins != 0 && !Mutated(Mutation::kCopyWithoutQuiesce);
      if (!held.exclusive && !pinned) {
        --held.exclusive_waiters;
        held.exclusive = true;
        return;
      }
      Wait(shard, lock);
    }
  }

  // The caller's pin becomes the exclusive lock if nobody else is there or waits: one turn of the
  // shard instead of two. False: the pin is still held.
  bool TryUpgrade(uint64_t key) {
    Shard& shard = ShardOf(key);
    auto lock = shard.monitor.Acquire();
    Held& held = FindOrAdd(shard, key);
    FL_CHECK(held.pins > 0);
    if (held.pins != 1 || held.exclusive_waiters != 0) return false;
    held.pins = 0;
    held.exclusive = true;
    return true;
  }

  void UnlockExclusive(uint64_t key) {
    Shard& shard = ShardOf(key);
    auto lock = shard.monitor.Acquire();
    Held& held = FindOrAdd(shard, key);
    FL_CHECK(held.exclusive);
    held.exclusive = false;
    Released(shard, held);
  }

 private:
  struct Held {
    uint64_t key;
    uint32_t pins = 0;
    uint32_t exclusive_waiters = 0;
    bool exclusive = false;
  };
  // Keys held in one shard are few (they are operations in flight), so a scan beats a hash table.
  struct alignas(64) Shard {
    Monitor monitor;
    Condition released;
    std::vector<Held> held;
    uint32_t sleepers = 0;
  };
  static constexpr size_t kShards = 1024;

  Shard& ShardOf(uint64_t key) { return shards_[(key * 0x9e3779b97f4a7c15u) >> 54]; }
  static_assert(kShards == size_t{1} << (64 - 54));

  static Held& FindOrAdd(Shard& shard, uint64_t key) {
    for (Held& held : shard.held)
      if (held.key == key) return held;
    return shard.held.emplace_back(Held{key});
  }

  static void Wait(Shard& shard, Monitor::Lock& lock) {
    ++shard.sleepers;
    shard.released.Wait(lock);
    --shard.sleepers;
  }

  static void Released(Shard& shard, Held& held) {
    if (held.pins == 0 && !held.exclusive && held.exclusive_waiters == 0) {
      held = shard.held.back();
      shard.held.pop_back();
    }
    if (shard.sleepers != 0) shard.released.NotifyAll();
  }

  std::vector<Shard> shards_ = std::vector<Shard>(kShards);
};

}  // namespace flashlun
