// AsyncOp: one asynchronous read or write of a volume, from its slot to its completion. Only
// store_async.cc works on it.
//
// Belongs to the thread that begins it until its transfers are submitted; then to whichever thread
// ends the last of them (`running` hands it over).
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/io.h"
#include "core/limits.h"
#include "core/store.h"

namespace flashlun {

class StoreImpl;
struct VolumeState;

struct AsyncOp {
  struct Piece final : IoRequest {
    void Done(const Status& status) override;
    AsyncOp* op = nullptr;
  };

  StoreImpl* store = nullptr;
  OpSlot* slot = nullptr;  // its own, for good
  VolumeState* volume = nullptr;
  Completion* done = nullptr;
  bool write = false;
  size_t bytes = 0;     // of the whole operation
  uint64_t offset = 0;  // of what is not submitted yet
  uint8_t* buf = nullptr;
  size_t left = 0;
  uint64_t first_track = 0;  // a write's pins
  uint32_t pins = 0;
  uint32_t areas = 0;  // a write: the data areas it goes to, one bit each

  std::atomic<uint32_t> running{0};  // transfers submitted and not ended
  std::atomic<bool> failed{false};
  Status error;  // of the transfer that set `failed`

  size_t piece_count = 0;
  std::array<Piece, kAsyncPieces> pieces;
};

}  // namespace flashlun
