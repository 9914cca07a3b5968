// flashlun_loadgen: a light NBD load generator.
//
// fio's nbd engine ends near 190k IOPS a job whatever the server does (shared/reference/lab.md), so
// it cannot compare fast servers. This one spends as little as it can: a fixed queue depth, one
// recv and one send per batch, xorshift offsets, simple replies, data neither produced nor looked
// at. One thread per connection.
//
// Prints one line of JSON: {"iops", "mbps" (10^6 bytes), "p50us", "p99us", "requests", "seconds"}.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "nbd_client.h"

namespace flashlun::bench {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  std::string address;
  std::string export_name;
  bool write = false;
  bool sequential = false;
  bool fill = false;  // write the whole range once, then end
  uint32_t block_bytes = 4096;
  uint32_t depth = 32;
  uint32_t connections = 1;
  double seconds = 3;
  uint64_t range_bytes = 0;   // 0: the whole export
  uint64_t stride_bytes = 0;  // distance of the blocks that may be chosen; 0: one block
  bool once = false;          // every place once, in random order, then end
  bool pass = false;          // every place once, in order, then end
  bool flush = false;         // every other request is a flush
  std::vector<uint8_t> psk;   // with TLS, by this key
};

constexpr uint32_t kMaxBlockBytes = 32u << 20;
constexpr uint32_t kMaxDepth = 1024;
constexpr uint32_t kMaxConnections = 64;
constexpr double kMaxSeconds = 600;

[[noreturn]] void Usage(const std::string& problem) {
  std::fprintf(
      stderr,
      "flashlun_loadgen: %s\n"
      "usage: flashlun_loadgen ADDRESS EXPORT [--write] [--sequential] [--fill] [--block BYTES]\n"
      "       [--depth N] [--connections N] [--seconds S] [--range BYTES]\n"
      "       [--stride BYTES] [--once] [--pass] [--flush] [--psk HEX]\n"
      "ADDRESS is unix:PATH or IPV4:PORT\n",
      problem.c_str());
  std::exit(2);
}

// Latencies in microsecond-or-finer buckets: 64 per power of two, so a percentile is within 2 %.
class Histogram {
 public:
  void Add(uint64_t ns) {
    if (ns < 64) ns = 64;
    const int power = 63 - __builtin_clzll(ns);
    const auto index = static_cast<size_t>(power - 6) * 64 + ((ns >> (power - 6)) & 63);
    counts_[std::min(index, counts_.size() - 1)]++;
    total_++;
  }
  void Merge(const Histogram& other) {
    for (size_t i = 0; i < counts_.size(); i++) counts_[i] += other.counts_[i];
    total_ += other.total_;
  }
  uint64_t total() const { return total_; }
  double PercentileUs(double fraction) const {
    const auto wanted = static_cast<uint64_t>(fraction * static_cast<double>(total_));
    uint64_t seen = 0;
    for (size_t i = 0; i < counts_.size(); i++) {
      seen += counts_[i];
      if (seen > wanted) return static_cast<double>((64 + (i & 63)) << (i / 64)) / 1000;
    }
    return 0;
  }

 private:
  std::array<uint64_t, 64 * 36> counts_{};
  uint64_t total_ = 0;
};

// One connection: keeps `depth` requests in flight; a cookie is the request's place in the table of
// start times.
class Worker {
 public:
  Worker(const Options& options, uint32_t index)
      : options_(options),
        client_(options.address, options.export_name, options.psk),
        started_(options.depth),
        random_(0x9e3779b97f4a7c15ull * (index + 1)) {
    const uint64_t size = client_.size_bytes();
    const uint64_t range = options.range_bytes == 0 ? size : std::min(options.range_bytes, size);
    blocks_ = range / Stride();
    if (blocks_ == 0) throw std::runtime_error("the export is smaller than one block");
    // A step without a common divisor visits every place once, far from the one before.
    step_ = blocks_ * 5 / 8 | 1;
    while (std::gcd(step_, blocks_) != 1) step_ += 2;
    // A sequential stream each, in its part of the range.
    next_block_ = options.sequential || options.fill ? blocks_ / options.connections * index : 0;
    const size_t request = kRequestBytes + (options.write ? options.block_bytes : 0);
    send_.resize(request * options.depth, 0x5a);
    // Room for every reply that can be on its way, so that one recv takes all there is.
    receive_.resize((kReplyBytes + (options.write ? 0 : options.block_bytes)) * options.depth);
  }

  void Run() {
    const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                             std::chrono::duration<double>(options_.seconds));
    free_.resize(options_.depth);
    for (uint32_t i = 0; i < options_.depth; i++) free_[i] = i;
    Submit(Clock::now());
    size_t filled = 0;
    while (free_.size() < options_.depth) {
      filled += client_.ReceiveSome(receive_.data() + filled, receive_.size() - filled);
      const auto now = Clock::now();
      filled = TakeReplies(filled, now);
      if (now < deadline || WholeRange()) Submit(now);
    }
    uint8_t request[kRequestBytes];
    PutRequest(request, kDisconnect, 0, 0, 0);
    client_.SendAll(request, sizeof request);
  }

  const Histogram& histogram() const { return histogram_; }

 private:
  static void PutRequest(uint8_t* to, uint16_t type, uint64_t cookie, uint64_t offset,
                         uint32_t length) {
    StoreBe32(to, kRequestMagic);
    StoreBe16(to + 4, 0);
    StoreBe16(to + 6, type);
    StoreBe64(to + 8, cookie);
    StoreBe64(to + 16, offset);
    StoreBe32(to + 24, length);
  }

  uint64_t Stride() const {
    return options_.stride_bytes == 0 ? options_.block_bytes : options_.stride_bytes;
  }
  bool WholeRange() const { return options_.fill || options_.once || options_.pass; }

  uint64_t NextBlock() {
    if (options_.once) return next_block_++ * step_ % blocks_;
    if (options_.sequential || WholeRange()) return next_block_++ % blocks_;
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return random_ % blocks_;
  }

  // Sends a request for every free place, all with one call.
  void Submit(Clock::time_point now) {
    size_t bytes = 0;
    while (!free_.empty()) {
      if (WholeRange() && next_block_ >= blocks_) break;
      const uint32_t place = free_.back();
      free_.pop_back();
      started_[place] = now;
      flushing_ = options_.flush && !flushing_;
      if (options_.flush && !flushing_) {
        PutRequest(&send_[bytes], kFlush, place, 0, 0);
        bytes += kRequestBytes;
        continue;
      }
      PutRequest(&send_[bytes], options_.write ? kWrite : kRead, place, NextBlock() * Stride(),
                 options_.block_bytes);
      bytes += kRequestBytes + (options_.write ? options_.block_bytes : 0);
    }
    if (bytes > 0) client_.SendAll(send_.data(), bytes);
  }

  // Takes every complete reply; returns how many bytes of an incomplete one are left, moved to the
  // front.
  size_t TakeReplies(size_t filled, Clock::time_point now) {
    const size_t reply = kReplyBytes + (options_.write ? 0 : options_.block_bytes);
    size_t at = 0;
    for (; filled - at >= reply; at += reply) {
      const uint8_t* header = receive_.data() + at;
      if (LoadBe32(header) != kSimpleReplyMagic) throw std::runtime_error("bad reply magic");
      if (LoadBe32(header + 4) != 0) {
        throw std::runtime_error("request failed with error " +
                                 std::to_string(LoadBe32(header + 4)));
      }
      const uint64_t place = LoadBe64(header + 8);
      if (place >= options_.depth) throw std::runtime_error("reply with an unknown cookie");
      free_.push_back(static_cast<uint32_t>(place));
      histogram_.Add(static_cast<uint64_t>((now - started_[place]).count()));
    }
    // An error reply of a READ has no data and may be shorter than `reply`.
    if (filled - at >= kReplyBytes && LoadBe32(receive_.data() + at + 4) != 0) {
      throw std::runtime_error("request failed with error " +
                               std::to_string(LoadBe32(receive_.data() + at + 4)));
    }
    std::memmove(receive_.data(), receive_.data() + at, filled - at);
    return filled - at;
  }

  const Options& options_;
  NbdClient client_;
  std::vector<Clock::time_point> started_;
  std::vector<uint32_t> free_;
  std::vector<uint8_t> send_;
  std::vector<uint8_t> receive_;
  Histogram histogram_;
  uint64_t blocks_ = 0;
  uint64_t next_block_ = 0;
  uint64_t step_ = 1;
  bool flushing_ = false;
  uint64_t random_;
};

double Number(const char* text, double low, double high, const char* name) {
  char* end = nullptr;
  const double value = std::strtod(text, &end);
  if (end == text || *end != '\0' || !(value >= low && value <= high)) {
    Usage(std::string(name) + " out of range: " + text);
  }
  return value;
}

std::vector<uint8_t> FromHex(const std::string& text) {
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes.push_back(static_cast<uint8_t>(std::stoul(text.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

Options Parse(int argc, char** argv) {
  if (argc < 3) Usage("ADDRESS and EXPORT are needed");
  Options options;
  options.address = argv[1];
  options.export_name = argv[2];
  for (int i = 3; i < argc; i++) {
    const std::string name = argv[i];
    if (name == "--write" || name == "--fill") {
      options.write = true;
      options.fill = options.fill || name == "--fill";
      continue;
    }
    if (name == "--sequential" || name == "--once" || name == "--pass" || name == "--flush") {
      options.sequential = options.sequential || name == "--sequential";
      options.once = options.once || name == "--once";
      options.pass = options.pass || name == "--pass";
      options.flush = options.flush || name == "--flush";
      continue;
    }
    if (i + 1 == argc) Usage(name + ": unknown, or its value is missing");
    const char* value = argv[++i];
    if (name == "--block") {
      options.block_bytes = static_cast<uint32_t>(Number(value, 1, kMaxBlockBytes, "--block"));
    } else if (name == "--depth") {
      options.depth = static_cast<uint32_t>(Number(value, 1, kMaxDepth, "--depth"));
    } else if (name == "--connections") {
      options.connections =
          static_cast<uint32_t>(Number(value, 1, kMaxConnections, "--connections"));
    } else if (name == "--seconds") {
      options.seconds = Number(value, 0.01, kMaxSeconds, "--seconds");
    } else if (name == "--range") {
      options.range_bytes = static_cast<uint64_t>(Number(value, 1, 1e18, "--range"));
    } else if (name == "--stride") {
      options.stride_bytes = static_cast<uint64_t>(Number(value, 1, 1e18, "--stride"));
    } else if (name == "--psk") {
      options.psk = FromHex(value);
    } else {
      Usage("unknown option " + name);
    }
  }
  if (options.fill || options.once || options.pass) options.connections = 1;
  if (options.flush && !options.write) Usage("--flush goes with --write");
  return options;
}

int Main(int argc, char** argv) {
  const Options options = Parse(argc, argv);
  std::vector<std::unique_ptr<Worker>> workers;
  for (uint32_t i = 0; i < options.connections; i++) {
    workers.push_back(std::make_unique<Worker>(options, i));
  }
  std::vector<std::thread> threads;
  std::vector<std::string> failures(workers.size());
  const auto start = Clock::now();
  for (size_t i = 0; i < workers.size(); i++) {
    threads.emplace_back([&worker = *workers[i], &failure = failures[i]] {
      try {
        worker.Run();
      } catch (const std::exception& error) {
        failure = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  Histogram all;
  for (size_t i = 0; i < workers.size(); i++) {
    if (!failures[i].empty()) throw std::runtime_error(failures[i]);
    all.Merge(workers[i]->histogram());
  }
  const double iops = static_cast<double>(all.total()) / seconds;
  std::printf(
      "{\"iops\":%.0f,\"mbps\":%.1f,\"p50us\":%.1f,\"p99us\":%.1f,\"requests\":%llu,\"seconds\":%."
      "3f}\n",
      iops, iops * options.block_bytes / 1e6, all.PercentileUs(0.5), all.PercentileUs(0.99),
      static_cast<unsigned long long>(all.total()), seconds);
  return 0;
}

}  // namespace
}  // namespace flashlun::bench

int main(int argc, char** argv) {
  try {
    return flashlun::bench::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "flashlun_loadgen: %s\n", error.what());
    return 1;
  }
}
