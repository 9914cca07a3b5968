#include "core/pool_check.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>

#include "core/store_impl.h"

namespace flashlun {

const char* SeverityName(Severity severity) {
  switch (severity) {
    case Severity::kNote:
      return "note";
    case Severity::kHarmless:
      return "harmless";
    case Severity::kRepairable:
      return "repairable";
    case Severity::kLoss:
      return "loss";
  }
  return "unknown";
}

const char* VerdictName(Verdict verdict) {
  switch (verdict) {
    case Verdict::kClean:
      return "clean";
    case Verdict::kRecoverable:
      return "recoverable";
    case Verdict::kDamaged:
      return "damaged";
  }
  return "unknown";
}

class PoolChecker {
 public:
  PoolChecker(Io& io, std::string dir) : io_(io), dir_(std::move(dir)) {}

  Result<PoolReport> Run() {
    if (Status status = Begin(); !status.ok()) return status;
    Result<bool> readable = CheckSuperblocks();
    if (!readable.ok()) return readable.TakeStatus();
    const bool tracks = CheckTracksLabel();
    if (readable.value()) {
      // The previous one first, so that only one map is in memory.
      Attempt previous = Try(superblock_.previous);
      previous.store.reset();
      Attempt current = Try(superblock_.current);
      const bool fallback = !current.status.ok() && previous.status.ok();
      const bool usable = current.status.ok() || fallback;
      if (!current.status.ok()) {
        current.store.reset();
        if (fallback) current.store = Try(superblock_.previous).store;
      }
      ReportCheckpoint(superblock_.current, "current checkpoint", current,
                       fallback ? Severity::kRepairable : Severity::kLoss);
      ReportPrevious(previous, current);
      CheckJournal(usable ? current.store.get() : nullptr);
      CheckRing(usable ? current.store.get() : nullptr);
      if (usable) CheckMap(*current.store, tracks);
    }
    Conclude();
    return std::move(report_);
  }

 private:
  // What an open would find that begins with one checkpoint.
  struct Attempt {
    Status status;        // of the first step that failed
    bool loaded = false;  // the checkpoint did
    std::unique_ptr<StoreImpl> store;
  };

  std::string PathOf(const char* name) const { return dir_ + "/" + name; }

  void Find(Severity severity, const char* file, std::string place, std::string text) {
    ++report_.found[static_cast<size_t>(severity)];
    if (report_.findings.size() < PoolReport::kMaxFindings)
      report_.findings.push_back({severity, file, std::move(place), std::move(text)});
  }

  Status Begin() {
    if (!io_.Exists(dir_)) {
      if (!io_.Exists(PathOf("meta")))
        return Status(Code::kNotFound, dir_ + ": there is no such directory");
    } else if (!io_.Exists(PathOf("meta")) && !io_.Exists(PathOf("tracks"))) {
      return Status(Code::kNotFound, dir_ + ": there is no pool in this directory; name the one " +
                                         "that holds `meta`, DATA/pool of a server");
    }
    // A server makes the file; without it there is none to keep away.
    if (io_.Exists(PathOf("lock"))) {
      Result<std::shared_ptr<void>> lock = io_.Lock(PathOf("lock"));
      if (!lock.ok() && lock.status().code() == Code::kLocked)
        return Status(Code::kLocked, dir_ + ": a server has this pool open; stop the server first");
      if (!lock.ok()) return lock.TakeStatus();
      lock_ = lock.value();
    }
    return Status::Ok();
  }

  Status Open(const char* name, std::unique_ptr<File>* file) {
    Result<std::unique_ptr<File>> result = io_.OpenFile(PathOf(name), {.read_only = true});
    if (result.ok()) *file = std::move(result.value());
    return result.TakeStatus();
  }

  // False: nothing behind the superblock can be read.
  Result<bool> CheckSuperblocks() {
    if (!io_.Exists(PathOf("meta"))) {
      Find(Severity::kLoss, "meta", "", "missing: restore it from a backup");
      return false;
    }
    std::unique_ptr<File> meta;
    if (Status status = Open("meta", &meta); !status.ok()) return status;
    Result<Superblock> best = ReadSuperblock(*meta, Access::kRead);
    std::string bad[kSuperblockCopies];
    bool foreign = false;  // of a newer version, or with features that are not known
    for (uint32_t copy = 0; copy < kSuperblockCopies; ++copy) {
      Result<SuperblockCopy> read = ReadSuperblockCopy(*meta, copy);
      if (!read.ok()) {
        bad[copy] = read.status().message();
        continue;
      }
      foreign = foreign || read.value().newer_version != 0 || (read.value().valid && !best.ok());
      if (!read.value().valid) {
        bad[copy] = "does not match its checksum";
      } else if (best.ok() && read.value().content.generation == best.value().generation) {
        ++report_.superblock_copies;
      } else {
        bad[copy] = "is of generation " + std::to_string(read.value().content.generation) +
                    ", an older one";
      }
    }
    if (!best.ok() && foreign) return best.TakeStatus();
    for (uint32_t copy = 0; copy < kSuperblockCopies; ++copy) {
      if (bad[copy].empty()) continue;
      Find(best.ok() ? Severity::kHarmless : Severity::kLoss, "meta",
           "superblock copy " + std::to_string(copy),
           bad[copy] + (best.ok() ? ": another copy is whole, and an open writes this one anew"
                                  : ": none of the four is valid; restore `meta` from a backup"));
    }
    if (!best.ok()) return false;
    superblock_ = std::move(best.value());
    DescribeSuperblock(*meta);
    return true;
  }

  void DescribeSuperblock(File& meta) {
    report_.pool_uuid = superblock_.pool_uuid;
    report_.closed_in_order = superblock_.clean;
    report_.generation = superblock_.generation;
    report_.current_lsn = superblock_.current.lsn;
    report_.previous_lsn = superblock_.previous.lsn;
    report_.journal_blocks = superblock_.journal_blocks;
    report_.capacity_tracks = superblock_.capacity_tracks;
    Result<uint64_t> size = meta.Size();
    const uint64_t pages_at = PagesOffset(superblock_.journal_blocks);
    if (size.ok() && size.value() > pages_at)
      report_.area_pages = (size.value() - pages_at) / kPageBytes;
    if (size.ok() && size.value() < pages_at)
      Find(Severity::kLoss, "meta", "byte " + std::to_string(size.value()),
           "the file ends here, inside the journal, which reaches to " + std::to_string(pages_at) +
               ": restore it from a backup");
  }

  // Of the pool's own tracks file, which is there whatever the metadata says. False: it cannot be
  // read.
  bool CheckTracksLabel() {
    std::unique_ptr<File> file;
    if (Status status = Open("tracks", &file); !status.ok()) {
      Find(Severity::kLoss, "tracks", "", status.message() + ": restore the file from a backup");
      return false;
    }
    if (superblock_.pool_uuid.empty()) return true;
    Areas areas;
    if (Status status = areas.Open(io_, AreaSpec{}, PathOf("tracks"), superblock_.pool_uuid,
                                   {.read_only = true});
        !status.ok())
      Find(Severity::kLoss, "tracks", "label", status.message());
    return true;
  }

  // The steps of StoreImpl::Recover, beginning with this checkpoint.
  Attempt Try(const CheckpointRef& ref) {
    Attempt attempt;
    attempt.store = std::make_unique<StoreImpl>(io_, StoreOptions{.dir = dir_});
    StoreImpl& store = *attempt.store;
    attempt.status = Open("meta", &store.meta_);
    if (attempt.status.ok()) attempt.status = Open("meta", &store.checkpoint_file_);
    if (!attempt.status.ok()) return attempt;
    store.superblock_ = superblock_;
    store.superblock_.current = ref;
    store.pool_uuid_ = superblock_.pool_uuid;
    store.journal_ = std::make_unique<Journal>(*store.meta_, kJournalOffset,
                                               superblock_.journal_blocks, superblock_.pool_uuid);
    store.ring_ = OpenRing();
    attempt.status = store.LoadCheckpoint(ref);
    attempt.loaded = attempt.status.ok();
    if (!attempt.loaded) return attempt;
    attempt.status = store.ReplayRecords();
    store.map_->set_replaying(false);
    return attempt;
  }

  // A missing or unreadable one counts as empty, as it does for an open.
  std::unique_ptr<KillRing> OpenRing() {
    const size_t size = KillRing::kHeaderBytes + superblock_.kill_ring_bytes;
    Result<std::unique_ptr<SharedMemory>> memory = io_.ReadShared(PathOf("ring"), size);
    return std::make_unique<KillRing>(memory.ok() ? std::move(memory.value())
                                                  : std::make_unique<HeapMemory>(size));
  }

  void ReportCheckpoint(const CheckpointRef& ref, const char* name, const Attempt& attempt,
                        Severity severity) {
    if (attempt.status.ok()) return;
    const char* meaning = severity == Severity::kLoss
                              ? "; the checkpoint before it does not lead to the same state: "
                                "restore the pool directory from a backup"
                          : severity == Severity::kRepairable
                              ? "; an open uses the checkpoint before it and a longer replay"
                              : "; the current checkpoint is whole";
    if (attempt.loaded) {
      const bool ring = attempt.status.message().starts_with(PathOf("ring"));
      return Find(severity, ring ? "ring" : "meta", "records", attempt.status.message());
    }
    std::unique_ptr<File> meta;
    if (Status status = Open("meta", &meta); !status.ok())
      return Find(severity, "meta", name, status.message());
    Checkpoints checkpoints(PageStore(*meta, PagesOffset(superblock_.journal_blocks)),
                            superblock_.pool_uuid);
    bool told = false;
    checkpoints.Survey(ref, [&](uint64_t page, const std::string& what) {
      told = true;
      Find(severity, "meta", std::string(name) + ", page " + std::to_string(page), what + meaning);
    });
    if (!told) Find(severity, "meta", name, attempt.status.message() + meaning);
  }

  void ReportPrevious(const Attempt& previous, const Attempt& current) {
    const bool needed = !current.status.ok();
    // The same damage of the journal stops both: told once.
    if (needed && current.loaded && previous.loaded) return;
    // A checkpoint that made room for a group which a power loss then cut off: nothing is damaged,
    // and the current one does not need it.
    if (!needed && previous.loaded && !previous.status.ok())
      return Find(Severity::kNote, "meta", "previous checkpoint",
                  "the journal does not lead from it to the current one, which is whole");
    ReportCheckpoint(superblock_.previous, "previous checkpoint", previous,
                     needed ? Severity::kLoss : Severity::kHarmless);
  }

  // Every block of the ring. Those that the log needs were replayed; `store` says how far that
  // went.
  void CheckJournal(StoreImpl* store) {
    std::unique_ptr<File> meta;
    if (!Open("meta", &meta).ok()) return;
    Journal journal(*meta, kJournalOffset, superblock_.journal_blocks, superblock_.pool_uuid);
    const uint64_t begin = superblock_.previous.replay.next_seq;
    const uint64_t middle = superblock_.current.replay.next_seq;
    const uint64_t end = store != nullptr ? store->position_.next_seq : middle;
    for (uint64_t slot = 0; slot < superblock_.journal_blocks; ++slot) {
      Result<Journal::Slot> read = journal.Inspect(slot);
      const bool broken = !read.ok() || read.value().state == Journal::Slot::kBroken;
      if (!broken) continue;
      // The sequence this place has in the current pass.
      const uint64_t seq =
          begin + (slot + superblock_.journal_blocks - begin % superblock_.journal_blocks) %
                      superblock_.journal_blocks;
      const std::string place = "journal block " + std::to_string(slot);
      const std::string what = read.ok() ? "does not match its checksum" : read.status().message();
      if (seq < middle)
        Find(Severity::kHarmless, "meta", place,
             what + ": only an open with the previous checkpoint would need it");
      else if (superblock_.clean || (store != nullptr && seq > end))
        Find(Severity::kNote, "meta", place, what + ": it holds nothing that is needed");
      else if (store == nullptr)
        Find(Severity::kLoss, "meta", place, what);
      else
        Find(Severity::kRepairable, "meta", place,
             what +
                 ": the end of the log. A power loss leaves this of a group that nobody was "
                 "told of; if there was none, the last commit is lost");
    }
  }

  void CheckRing(const StoreImpl* store) {
    const uint64_t size = KillRing::kHeaderBytes + superblock_.kill_ring_bytes;
    const Severity unsure = superblock_.clean ? Severity::kHarmless : Severity::kRepairable;
    const std::string meaning =
        superblock_.clean
            ? ": it held nothing, an open makes it anew"
            : ": after a power loss it counts for nothing; after a mere kill, writes since the "
              "last commit are lost";
    if (!io_.Exists(PathOf("ring"))) return Find(unsure, "ring", "", "missing" + meaning);
    Result<std::unique_ptr<SharedMemory>> memory = io_.ReadShared(PathOf("ring"), size);
    if (!memory.ok()) return Find(unsure, "ring", "", memory.status().message() + meaning);
    if (std::unique_ptr<File> file; Open("ring", &file).ok()) {
      Result<uint64_t> bytes = file->Size();
      if (bytes.ok() && bytes.value() < size)
        Find(unsure, "ring", "byte " + std::to_string(bytes.value()),
             "the file ends here instead of at " + std::to_string(size) + meaning);
    }
    const KillRing ring(std::move(memory.value()));
    switch (ring.OwnerOf(superblock_.pool_uuid, io_.BootId())) {
      case KillRing::Owner::kDamaged:
        return Find(unsure, "ring", "header", "does not match its checksum" + meaning);
      case KillRing::Owner::kOtherPool:
        return Find(unsure, "ring", "header", "the ring is of another pool" + meaning);
      case KillRing::Owner::kVoid:
        return Find(Severity::kNote, "ring", "header", "the ring was declared void");
      case KillRing::Owner::kOtherBoot:
      case KillRing::Owner::kThisBoot:
        break;
    }
    if (store != nullptr) report_.ring_records = store->last_lsn_ - store->durable_lsn_;
  }

  void CheckMap(StoreImpl& store, bool tracks) {
    report_.last_lsn = store.last_lsn_;
    report_.groups = store.position_.last_group - store.superblock_.current.replay.last_group;
    report_.records = store.counters_.recovered_records - report_.ring_records;
    report_.volumes = store.volumes_.size();
    report_.relationships = store.relations_.size();
    const Map::Told told = [this](const VolumeState& volume, uint64_t first_track,
                                  const std::string& what) {
      char id[8];
      std::snprintf(id, sizeof id, "%04X", volume.id);
      Find(Severity::kLoss, "meta",
           std::string("volume ") + id + ", tracks from " + std::to_string(first_track),
           "the map holds " + what + ": restore the pool directory from a backup");
    };
    store.map_->RebuildCounts(store.VolumePointers(), &told);
    for (const auto& [id, relation] : store.relations_)
      if (!store.volumes_.contains(relation.source_id) ||
          !store.volumes_.contains(relation.target_id))
        Find(Severity::kLoss, "meta", "relationship " + std::to_string(id),
             "one of its volumes does not exist: restore the pool directory from a backup");
    for (const VolumeState* volume : store.VolumePointers())
      report_.mapped_tracks += volume->mapped_tracks;
    report_.used_tracks = store.map_->allocator().used();
    // Marks the pages of the other checkpoint too: those are not free either.
    if (store.superblock_.current.lsn == superblock_.current.lsn)
      store.checkpoint_->KeepPrevious(superblock_.previous);
    report_.used_pages = store.checkpoint_->used_pages();
    for (const auto& [number, area] : store.area_specs_)
      if (number != 0 || tracks) CheckArea(store, area);
  }

  void CheckArea(StoreImpl& store, const AreaSpec& area) {
    const std::string path = store.PathOf(area);
    const char* file = area.number == 0 ? "tracks" : area.path.c_str();
    report_.needed_bytes += store.map_->needed_bytes(area.number);
    Status status = store.areas_.Open(io_, area, path, superblock_.pool_uuid, {.read_only = true});
    if (!status.ok()) {
      if (area.number != 0) Find(Severity::kLoss, file, "label", status.message());
      return;
    }
    Result<uint64_t> size = store.areas_.file(area.number).Size();
    if (size.ok()) report_.tracks_bytes += size.value();
    if (status = store.CheckTracksSize(area); !status.ok())
      Find(Severity::kLoss, file, "end", status.message());
  }

  void Conclude() {
    const auto has = [this](Severity severity) {
      return report_.found[static_cast<size_t>(severity)] != 0;
    };
    if (has(Severity::kLoss))
      report_.verdict = Verdict::kDamaged;
    else if (has(Severity::kRepairable) || has(Severity::kHarmless))
      report_.verdict = Verdict::kRecoverable;
    // The worst first.
    std::stable_sort(report_.findings.begin(), report_.findings.end(),
                     [](const Finding& a, const Finding& b) { return a.severity > b.severity; });
  }

  Io& io_;
  const std::string dir_;
  std::shared_ptr<void> lock_;
  Superblock superblock_;
  PoolReport report_;
};

Result<PoolReport> CheckPool(Io& io, const std::string& dir) { return PoolChecker(io, dir).Run(); }

}  // namespace flashlun
