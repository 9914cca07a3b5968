// SimImage: the content of a simulated file, cheap to copy: copies share what neither has changed.
// One thread.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace flashlun {

inline constexpr size_t kSimBlock = 4096;
using SimBytes = std::array<uint8_t, kSimBlock>;
using SimBlock = std::shared_ptr<const SimBytes>;  // null: zeroes

class SimImage {
 public:
  uint64_t blocks() const { return blocks_; }

  const SimBlock& Get(uint64_t block) const {
    static const SimBlock kZeroes;
    if (block >= blocks_ || !chunks_[block / kChunk]) return kZeroes;
    return (*chunks_[block / kChunk])[block % kChunk];
  }

  void Set(uint64_t block, SimBlock content) {
    if (block >= blocks_) Resize(block + 1);
    std::shared_ptr<Chunk>& chunk = chunks_[block / kChunk];
    if (!chunk)
      chunk = std::make_shared<Chunk>();
    else if (chunk.use_count() > 1)
      chunk = std::make_shared<Chunk>(*chunk);
    (*chunk)[block % kChunk] = std::move(content);
  }

  // What was cut off reads as zeroes when the file grows again.
  void Resize(uint64_t blocks) {
    for (uint64_t gone = blocks; gone < std::min(blocks_, (blocks + kChunk - 1) / kChunk * kChunk);
         ++gone)
      if (Get(gone)) Set(gone, nullptr);
    blocks_ = blocks;
    chunks_.resize((blocks + kChunk - 1) / kChunk);
  }

 private:
  static constexpr uint64_t kChunk = 64;
  using Chunk = std::array<SimBlock, kChunk>;
  std::vector<std::shared_ptr<Chunk>> chunks_;
  uint64_t blocks_ = 0;
};

inline std::shared_ptr<SimBytes> CopyOfBlock(const SimBlock& block) {
  auto copy = std::make_shared<SimBytes>();
  if (block)
    *copy = *block;
  else
    copy->fill(0);
  return copy;
}

}  // namespace flashlun
