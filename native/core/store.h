// Store: one open pool. Volumes are tables of pointers to 64 KiB tracks; FlashCopy Establish shares
// the table.
//
// This header is all that native/nbd and native/binding see of an open pool (pool_check.h: of a
// closed one). Design:
// ../../shared/design/track-store.md section 3, ARCHITECTURE.md "Track store".
//
// Thread safety: every method of Store and Volume may be called from any thread, concurrently.
// Volume I/O needs an OpSlot of the calling thread. Methods marked "blocks" may wait for the disk
// and must not run on Node's main thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/block_status.h"
#include "core/io.h"
#include "core/limits.h"
#include "core/status.h"

namespace flashlun {

class StoreImpl;
struct VolumeState;

struct StoreOptions {
  std::string dir;  // pool directory; created when missing
  uint64_t capacity_bytes = uint64_t{1}
                            << 40;  // most the track file may grow to; stored at first open
  uint64_t journal_blocks =
      8192;  // 4 KiB blocks of the journal ring (32 MiB); stored at first open
  uint64_t kill_ring_bytes = uint64_t{8} << 20;  // ring for SIGKILL safety; stored at first open
  // Tracks past the page cache (O_DIRECT). May differ from one open to the next.
  bool direct = false;
  IoBackend io_backend = IoBackend::kAuto;  // of asynchronous I/O
  // Write-out to the disk begins each time so much more has been written (a power of two; 0: it is
  // left to flushes and to the kernel). Not with `direct`.
  uint64_t write_out_bytes = uint64_t{8} << 20;
  // Writers wait when they are so much ahead of the write-out: at 1 GiB, about a second of a disk's
  // time is the most that a FLUSH finds left to do, instead of all of the page cache.
  uint64_t write_out_limit_bytes = uint64_t{1} << 30;
  // A second file for the metadata: empty: as the pool remembers; `none`: no longer; a path: there.
  std::string meta_mirror{};
  uint32_t autocommit_ms = 1000;  // un-flushed records become durable at the latest after this
};

enum VolumeFlag : uint16_t {
  kVolumeThick = 1u << 0,      // its whole size is reserved: its writes never find the pool full
  kVolumeUntouched = 1u << 2,  // no host has written since it was made or became a target
  kVolume4Kn = 1u << 1,        // its hosts see blocks of 4096 bytes; otherwise 512
};

struct CreateOptions {
  uint32_t pool = 0;  // number of the pool (data area) that its tracks come from
  bool thick = false;
  uint32_t block_bytes = 512;  // logical block size that hosts are told: 512 or 4096
};

// A pool, as people see it: one data area of the store.
struct PoolInfo {
  uint32_t number = 0;
  std::string name;
  std::string path;
  uint64_t capacity_tracks = 0;
  uint64_t used_tracks = 0;        // referenced by any leaf, or waiting for a deferred drop
  uint64_t ready_tracks = 0;       // used, or free with their space allocated on the disk
  uint64_t claimed_tracks = 0;     // sizes of the thick volumes
  uint64_t thick_used_tracks = 0;  // of the used ones, those of thick volumes
  uint64_t available_tracks = 0;   // what thin volumes may still take
  std::string growth_error;        // empty, or why the last growth step failed
};

struct VolumeInfo {
  uint16_t id = 0;   // LLVV, for example 0x1203
  std::string name;  // may be empty
  uint64_t size_bytes = 0;
  int64_t created_unix_ms = 0;
  uint32_t pool = 0;
  bool thick = false;
  uint32_t block_bytes = 512;  // logical block size that hosts are told
  uint64_t mapped_tracks =
      0;  // tracks with data of their own or shared; the thin "used" figure is this * 64 KiB
  uint32_t attached = 0;  // live Volume handles
  // Host I/O since the store was opened.
  uint64_t read_ops = 0, read_bytes = 0, write_ops = 0, write_bytes = 0;
  uint64_t flush_ops = 0, trim_ops = 0, zero_ops = 0, error_ops = 0;
  uint64_t redirected_tracks =
      0;  // writes that went to a fresh track because the old one was shared
  int64_t frozen_until_unix_ms = 0;  // 0: not frozen
  // A host has written to it since it was created or last became a target. Of a thick volume,
  // writes over what it has already may be missed.
  bool host_written = false;
  bool write_inhibited = false;  // by the relationship that it is the target of (kRelInhibit)
};

enum RelationshipFlag : uint32_t {
  kRelNoCopy = 1u << 0,  // no background copy; stays until withdrawn
  // The source became the target of another relationship after T0: its changes since then cannot be
  // told. Set by the store.
  kRelSourceReplaced = 1u << 1,
  kRelPersistent = 1u << 2,  // stays when every track has been copied
  // Both volumes note which of their tracks change after T0: a resync or a reverse then shares
  // and copies only those (changes.h). A volume records for one relationship at a time.
  kRelRecord = 1u << 3,
  kRelInhibit = 1u << 4,     // hosts may not write the target
  kRelRevertible = 1u << 5,  // the image before the last resync is kept; means nothing to the store
};
inline constexpr uint32_t kRelFlags =
    kRelNoCopy | kRelPersistent | kRelRecord | kRelInhibit | kRelRevertible;  // of the callers

// A relationship that tells what changed in a volume since its T0 (block_status.h).
struct RecordingInfo {
  uint64_t relationship = 0;
  uint16_t source_id = 0;
  uint16_t target_id = 0;
};

struct PairSpec {
  uint16_t source_id = 0;
  uint16_t target_id = 0;
  uint32_t flags = 0;  // RelationshipFlag bits
};

struct RelationshipInfo {
  uint64_t id = 0;
  uint16_t source_id = 0;
  uint16_t target_id = 0;
  uint32_t flags = 0;
  int64_t t0_unix_ms = 0;
  uint64_t out_of_sync_tracks =
      0;  // target tracks whose T0 data is still only shared, not yet on a track of its own
  uint64_t total_tracks = 0;   // tracks of the source
  uint64_t copied_tracks = 0;  // by background copy, since the store was opened
  // What background copy has still to look at; 0: it has nothing to do.
  uint64_t pending_tracks = 0;
};

struct CopyBatchResult {
  uint32_t copied_tracks = 0;  // tracks physically copied by this call
  uint64_t next_track = 0;     // pass as `first_track` of the next call
  // Nothing is left to copy. The relationship has ended (record written), unless it is persistent.
  bool done = false;
};

// A track whose content is not what its seal says.
struct VerifyMismatch {
  uint64_t track = 0;            // of the volume
  uint64_t physical = 0;         // in the pool
  uint64_t offset_bytes = 0;     // of the physical track in the tracks file
  std::vector<uint16_t> shared;  // the other volumes that read it
};

// A track that the disk does not give.
struct VerifyIoError {
  uint64_t track = 0;
  std::string message;
};

struct VerifyBatchResult {
  uint64_t verified = 0;    // tracks compared with their seals
  uint64_t sealed = 0;      // frozen tracks that got one
  uint64_t read_only = 0;   // tracks that could only be read: hosts may still write them in place
  uint64_t read_bytes = 0;  // from the pool
  std::vector<VerifyMismatch> mismatched;
  std::vector<VerifyIoError> io_errors;
  uint64_t next_track = 0;  // pass as `first_track` of the next call
  bool done = false;        // the volume's end
};

struct StoreInfo {
  uint64_t capacity_tracks = 0;  // limit of the track file
  uint64_t used_tracks = 0;      // referenced by any leaf, or waiting for a deferred drop
  uint64_t commits = 0;          // journal groups made durable
  uint64_t checkpoints = 0;
  uint64_t flushes = 0;
  uint64_t trimmed_tracks = 0;   // given back to the disk
  uint64_t write_out_waits = 0;  // writes that waited for the write-out
  uint64_t last_lsn = 0, durable_lsn = 0;
  bool recovered_unclean = false;         // the last session did not close the pool
  bool used_previous_checkpoint = false;  // the current one was damaged
  uint64_t sealed_tracks = 0;             // tracks with a checksum
  uint64_t verify_mismatches = 0;         // found by scrubs and copies since the open
  uint64_t recovered_records = 0;         // journal and kill-ring records replayed at open
  std::string poisoned;                   // empty, or why the pool stopped
  bool direct = false;                    // tracks past the page cache
  std::string io_backend;                 // of asynchronous I/O: "io_uring" or "threads"
  std::string io_note;                    // empty, or why `auto` did not take io_uring
  bool created = false;                   // by this open
  std::string mirror_path;                // of the metadata; empty: there is none
  std::string mirror_problem;             // empty, or why one of the two copies does not count
  std::string healed_copy;                // by this open: which copy was made equal, and why
  uint64_t expired_freezes = 0;           // volumes that a freeze's time limit thawed
};

// A thread's place in the epoch scheme: says which epoch its current operation began in. One
// operation at a time. Obtain with Store::AcquireSlot, give back with ReleaseSlot; cheap to keep
// for a thread's life.
struct alignas(64) OpSlot {
  std::atomic<uint64_t> epoch{0};  // 0: idle
  std::atomic<const VolumeState*> volume{nullptr};
  std::atomic<bool> taken{false};
};

enum class ReadMode {
  kBlocking,
  kNoWait,  // RWF_NOWAIT: returns kWouldBlock instead of waiting for the disk; buf is then
            // undefined
};

// Completion of something asynchronous. The caller owns the object and keeps it alive until Done
// ran.
class Completion {
 public:
  virtual ~Completion() = default;
  // Runs on one of the store's threads, or inside the call when there was nothing to wait for. Must
  // not block.
  virtual void Done(const Status& status) = 0;
};

// Completion of a flush.
class FlushWaiter : public Completion {
 public:
  FlushWaiter* next = nullptr;  // link of the store's queue
};

// Hears of the end of a freeze (Volume::AwaitThaw).
class ThawWaiter {
 public:
  virtual ~ThawWaiter() = default;
  // Runs on any thread, under a lock: must not block, nor call the store.
  virtual void Thawed() = 0;
};

// An attached volume. While handles exist the volume cannot be deleted. Copyable like a shared_ptr.
class Volume {
 public:
  Volume() = default;
  uint16_t id() const;
  // Grows while the volume is attached (Store::ResizeVolume).
  uint64_t size_bytes() const;

  // Preconditions of all four: offset + len <= size_bytes(). Any alignment. Each call may block on
  // the volume's gate for the milliseconds of an establish that has this volume as target. A reply
  // may leave as soon as they return OK: the effect is then visible to every connection and
  // survives SIGKILL.
  Status Read(OpSlot& slot, uint64_t offset_bytes, void* buf, size_t len, ReadMode mode);
  Status Write(OpSlot& slot, uint64_t offset_bytes, const void* buf, size_t len);
  // As Read with kBlocking and Write, but they do not wait for the disk: `done` hears of the end,
  // and buf and this handle stay until then. False: not now, use the blocking call; nothing has
  // happened. WriteAsync takes whole 4 KiB blocks, at most kMaxAsyncWriteBytes, and only where the
  // bytes may be overwritten in place.
  bool ReadAsync(uint64_t offset_bytes, void* buf, size_t len, Completion* done);
  bool WriteAsync(uint64_t offset_bytes, const void* buf, size_t len, Completion* done);
  // Reads back as zero afterwards, exactly the range. no_hole: keeps (or makes) every track mapped,
  // by writing zeroes.
  Status WriteZeroes(OpSlot& slot, uint64_t offset_bytes, uint64_t len, bool no_hole);
  // Un-maps whole sub-blocks inside the range; the ragged ends keep their content (proto.md
  // NBD_CMD_TRIM: a hint).
  Status Trim(OpSlot& slot, uint64_t offset_bytes, uint64_t len);

  // The status of blocks from query.offset on; extents are replaced. Precondition: the range is not
  // empty and inside the volume. An answer that ends early is no error.
  Status BlockStatus(OpSlot& slot, const StatusQuery& query, std::vector<StatusExtent>* extents);
  // How the range begins: with zeroes that need no read (at least min_zero bytes of them, or the
  // whole range), or with data, up to the next such run or a little more than data_limit bytes.
  // Precondition: the range is not empty and inside the volume.
  DataRun FindRun(OpSlot& slot, uint64_t offset_bytes, uint64_t len, uint64_t data_limit,
                  uint64_t min_zero);
  // Asks the system to bring the range, or its first kMaxPrefetchBytes, into the page cache.
  void Prefetch(OpSlot& slot, uint64_t offset_bytes, uint64_t len);
  // Hands what the page cache has of the range to the disk, without waiting for it: a hint for a
  // Flush that is to be expected. Nothing in direct mode.
  void StartWriteOut(OpSlot& slot, uint64_t offset_bytes, uint64_t len);
  // A relationship inhibits host writes to the volume (kRelInhibit): they are refused.
  bool WritesInhibited() const;
  // Brackets of everything a host wants written (Write, WriteAsync until its Done, WriteZeroes,
  // Trim): a freeze waits for those that have begun. False: the volume is frozen, the write has not
  // begun and must wait for the thaw. Never blocks. The same slot begins and ends one.
  bool BeginHostWrite(const OpSlot& slot);
  void EndHostWrite(const OpSlot& slot);
  // True: waiter->Thawed() will run, once, unless ForgetThaw comes first. False: not frozen (any
  // more).
  bool AwaitThaw(ThawWaiter* waiter);
  void ForgetThaw(ThawWaiter* waiter);

  // Counts a flush on this volume (FlushAsync itself is per store).
  void CountFlush();

 private:
  friend class Store;
  friend class StoreImpl;
  StoreImpl* store_ = nullptr;
  std::shared_ptr<VolumeState> state_;
  std::shared_ptr<void> attachment_;  // releases the attach count
};

class Store {
 public:
  // Opens the pool in options.dir, making it when the directory holds none. Recovers after a crash
  // (3.7). Blocks. Errors: kLocked (another process), kCorrupt (names the file and what to do),
  // kIo, kNoSpace.
  static Result<std::unique_ptr<Store>> Open(Io& io, const StoreOptions& options);
  ~Store();

  // Commits, checkpoints and closes. No operation may be running. Blocks. Idempotent.
  Status Close();

  // Durable when it returns. Blocks; a thick volume until its space is allocated. kNoSpace: the
  // pool cannot hold the thick volume; nothing was changed.
  Status CreateVolume(uint16_t id, uint64_t size_bytes, std::string_view name,
                      const CreateOptions& options = {});
  // Grows the volume, also while attached and in relationships; new space reads as zero. A running
  // relationship keeps the T0 range it was made for. kInvalid: smaller, or not a volume's size. The
  // size it has is fine. kNoSpace: the pool cannot hold the thick volume. Durable when it returns.
  // Blocks.
  Status ResizeVolume(uint16_t id, uint64_t new_size_bytes);
  // kBusy while attached or in a relationship. Blocks.
  Status DeleteVolume(uint16_t id);
  std::vector<VolumeInfo> ListVolumes();
  Result<VolumeInfo> GetVolume(uint16_t id);
  // kNotFound.
  Result<Volume> Attach(uint16_t id);

  // Establishes all pairs at one point in time (T0), or none. Durable when it returns. ids gets one
  // relationship id a pair. Blocks. Errors: kNotFound, kInvalid (source = target, target smaller,
  // volume twice as target), kBusy (target already in a relationship), kTimeout.
  Status Establish(std::span<const PairSpec> pairs, std::vector<uint64_t>* ids);
  // target := source again, at one new T0 for all of them, or none. What hosts wrote to the targets
  // is given up. A relationship that recorded its changes shares those only, any other the whole
  // source anew. `flags`: kRelFlags bits that replace the relationships' own. Errors as Establish;
  // kNotFound: a relationship has ended.
  Status Resync(std::span<const uint64_t> relationship_ids, std::optional<uint32_t> flags = {});
  Status Resync(uint64_t relationship_id) { return Resync({&relationship_id, 1}); }
  // The roles swap: the old source becomes a copy of what the old target holds at a new T0. The ids
  // stay. All or none. Errors as Establish; kInvalid: the sizes differ; kBusy: the old source is
  // itself a target; kNotFound.
  Status Reverse(std::span<const uint64_t> relationship_ids, std::optional<uint32_t> flags = {});
  Status Reverse(uint64_t relationship_id) { return Reverse({&relationship_id, 1}); }
  // Ends the relationship; the target keeps its T0 content (better than the ESS,
  // track-store.md 3.0). Blocks.
  Status Withdraw(uint64_t relationship_id);
  // Other flags without a new T0: nocopy turned into copy, inhibit, persistent. Recording can end
  // but not begin: its bits count from a T0. Durable when it returns. Blocks. kInvalid, kNotFound.
  Status SetFlags(uint64_t relationship_id, uint32_t flags);
  // The target of a relationship that records becomes the image again, a volume of its size that
  // shares its tracks; what differs counts as changed. `t0_unix_ms` and `flags` become the
  // relationship's. Durable when it returns. Blocks. Errors as Resync.
  Status Revert(uint64_t relationship_id, uint16_t image, int64_t t0_unix_ms, uint32_t flags);
  std::vector<RelationshipInfo> ListRelationships();
  // Relationships whose T0 a volume can be compared with: those it is the source or the target of,
  // and those of its own source; at most kMaxRecordings. Cheap: counts nothing.
  std::vector<RecordingInfo> ListRecordings(uint16_t volume);
  // Background copy: gives up to max_tracks of the target, from first_track on, tracks of their
  // own. Blocks for the disk; takes no lock between tracks. kNotFound when the relationship has
  // ended meanwhile (withdrawn).
  Result<CopyBatchResult> CopyBatch(uint64_t relationship_id, uint64_t first_track,
                                    uint32_t max_tracks);

  // Holds up the host writes of all the volumes, or of none: from its return on their content does
  // not change by hosts until Thaw, or until the limit has passed. Reads, flushes, establishes and
  // background copies go on. Not part of the pool: a reopened one is thawed. Blocks until the
  // writes in flight have ended. Errors: kNotFound; kBusy (one is frozen already); kInvalid (the
  // limit is not kMinFreeze to kMaxFreeze); kTimeout (a write in flight does not end).
  Status Freeze(std::span<const uint16_t> ids, std::chrono::milliseconds limit);
  // Ends it; returns those that were frozen until now. One that is missing was thawed before, by
  // its limit or by somebody else: what was copied from it meanwhile may be of another time.
  std::vector<uint16_t> Thaw(std::span<const uint16_t> ids);

  // Adds a pool of capacity_bytes (0: all of a block device) on a new file or an unused block
  // device, named by its absolute path. Durable when it returns. Blocks. Errors: kExists (name,
  // path, or data on the device), kLimit, kInvalid, kNoSpace.
  Status CreatePool(const std::string& name, const std::string& path, uint64_t capacity_bytes);
  // Raises a pool's capacity. Durable when it returns. Blocks.
  Status GrowPool(uint32_t number, uint64_t capacity_bytes);
  std::vector<PoolInfo> ListPools();
  // Scrub: reads up to max_tracks mapped tracks of the volume, from first_track on. Frozen ones
  // (shared with another volume) are compared with their seals, or get one (seals.h). What does not
  // match is reported and served as it is. Read from the disk, past the page cache, but for what is
  // not written out yet. Blocks for the disk; hosts go on. kNotFound.
  Result<VerifyBatchResult> VerifyBatch(uint16_t volume, uint64_t first_track, uint32_t max_tracks);

  // Everything acknowledged before the call becomes safe against power loss before Done (proto.md
  // NBD_CMD_FLUSH; holds across connections, so CAN_MULTI_CONN is honest).
  void FlushAsync(FlushWaiter* waiter);
  // The same, waiting. Blocks.
  Status Flush();

  StoreInfo Info();
  // Whether every read and write of tracks waits for the disk (StoreOptions::direct).
  bool direct() const;

  // nullptr when kMaxOpSlots are taken.
  OpSlot* AcquireSlot();
  void ReleaseSlot(OpSlot* slot);

  // For native/test: what is behind the face.
  StoreImpl& impl() { return *impl_; }

 private:
  friend class StoreImpl;
  explicit Store(std::unique_ptr<StoreImpl> impl);
  std::unique_ptr<StoreImpl> impl_;
};

}  // namespace flashlun
