#include "core/pool_check.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>

#include "core/mirror.h"
#include "core/recovery_trial.h"
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

// Verifies one copy of the metadata, and what hangs on it.
class PoolChecker {
 public:
  // `meta`: path of the copy; `name`: what the findings call it.
  PoolChecker(Io& io, std::string dir, std::string meta, std::string name)
      : io_(io), dir_(std::move(dir)), meta_(std::move(meta)), name_(std::move(name)) {}

  Result<PoolReport> Run() {
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
    return std::move(report_);
  }

 private:
  using Attempt = RecoveryTrial;

  Attempt Try(const CheckpointRef& ref) {
    return RecoveryTrial::Run(io_, dir_, meta_, superblock_, ref);
  }
  std::string PathOf(const char* name) const { return dir_ + "/" + name; }

  void Find(Severity severity, const std::string& file, std::string place, std::string text) {
    ++report_.found[static_cast<size_t>(severity)];
    if (report_.findings.size() < PoolReport::kMaxFindings)
      report_.findings.push_back({severity, file, std::move(place), std::move(text)});
  }

  Status Open(const std::string& path, std::unique_ptr<File>* file) {
    Result<std::unique_ptr<File>> result = io_.OpenFile(path, {.read_only = true});
    if (result.ok()) *file = std::move(result.value());
    return result.TakeStatus();
  }

  // False: nothing behind the superblock can be read.
  Result<bool> CheckSuperblocks() {
    if (!io_.Exists(meta_)) {
      Find(Severity::kLoss, name_, "", "missing: restore it from a backup");
      return false;
    }
    std::unique_ptr<File> meta;
    if (Status status = Open(meta_, &meta); !status.ok()) return status;
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
      Find(best.ok() ? Severity::kHarmless : Severity::kLoss, name_,
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
      Find(Severity::kLoss, name_, "byte " + std::to_string(size.value()),
           "the file ends here, inside the journal, which reaches to " + std::to_string(pages_at) +
               ": restore it from a backup");
  }

  // Of the pool's own tracks file, which is there whatever the metadata says. False: it cannot be
  // read.
  bool CheckTracksLabel() {
    std::unique_ptr<File> file;
    if (Status status = Open(PathOf("tracks"), &file); !status.ok()) {
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
      return Find(severity, ring ? "ring" : name_, "records", attempt.status.message());
    }
    std::unique_ptr<File> meta;
    if (Status status = Open(meta_, &meta); !status.ok())
      return Find(severity, name_, name, status.message());
    Checkpoints checkpoints(PageStore(*meta, PagesOffset(superblock_.journal_blocks)),
                            superblock_.pool_uuid);
    bool told = false;
    checkpoints.Survey(ref, [&](uint64_t page, const std::string& what) {
      told = true;
      Find(severity, name_, std::string(name) + ", page " + std::to_string(page), what + meaning);
    });
    if (!told) Find(severity, name_, name, attempt.status.message() + meaning);
  }

  void ReportPrevious(const Attempt& previous, const Attempt& current) {
    const bool needed = !current.status.ok();
    // The same damage of the journal stops both: told once.
    if (needed && current.loaded && previous.loaded) return;
    // A checkpoint that made room for a group which a power loss then cut off: nothing is damaged,
    // and the current one does not need it.
    if (!needed && previous.loaded && !previous.status.ok())
      return Find(Severity::kNote, name_, "previous checkpoint",
                  "the journal does not lead from it to the current one, which is whole");
    ReportCheckpoint(superblock_.previous, "previous checkpoint", previous,
                     needed ? Severity::kLoss : Severity::kHarmless);
  }

  // Every block of the ring. Those that the log needs were replayed; `store` says how far that
  // went.
  void CheckJournal(StoreImpl* store) {
    std::unique_ptr<File> meta;
    if (!Open(meta_, &meta).ok()) return;
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
        Find(Severity::kHarmless, name_, place,
             what + ": only an open with the previous checkpoint would need it");
      else if (superblock_.clean || (store != nullptr && seq > end))
        Find(Severity::kNote, name_, place, what + ": it holds nothing that is needed");
      else if (store == nullptr)
        Find(Severity::kLoss, name_, place, what);
      else
        Find(Severity::kRepairable, name_, place,
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
    if (std::unique_ptr<File> file; Open(PathOf("ring"), &file).ok()) {
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
      Find(Severity::kLoss, name_,
           "volume " + VolumeIdText(volume.id) + ", tracks from " + std::to_string(first_track),
           "the map holds " + what + ": restore the pool directory from a backup");
    };
    store.map_->RebuildCounts(store.VolumePointers(), &told);
    for (const auto& [id, relation] : store.relations_)
      if (!store.volumes_.contains(relation.source_id) ||
          !store.volumes_.contains(relation.target_id))
        Find(Severity::kLoss, name_, "relationship " + std::to_string(id),
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

  Io& io_;
  const std::string dir_;
  const std::string meta_;
  const std::string name_;
  Superblock superblock_;
  PoolReport report_;
};

namespace {

// Keeps servers and other checks away. kNotFound: there is no pool.
Result<std::shared_ptr<void>> LockPool(Io& io, const std::string& dir) {
  const std::string meta = dir + "/meta";
  const std::string tracks = dir + "/tracks";
  if (!io.Exists(dir)) {
    if (!io.Exists(meta)) return Status(Code::kNotFound, dir + ": there is no such directory");
  } else if (!io.Exists(meta) && !io.Exists(tracks)) {
    return Status(Code::kNotFound, dir + ": there is no pool in this directory; name the one " +
                                       "that holds `meta`, DATA/pool of a server");
  }
  // A server makes the file; without it there is none to keep away.
  if (!io.Exists(dir + "/lock")) return std::shared_ptr<void>();
  Result<std::shared_ptr<void>> lock = io.Lock(dir + "/lock");
  if (!lock.ok() && lock.status().code() == Code::kLocked)
    return Status(Code::kLocked, dir + ": a server has this pool open; stop the server first");
  return lock;
}

void Add(PoolReport* report, Finding finding) {
  ++report->found[static_cast<size_t>(finding.severity)];
  if (report->findings.size() < PoolReport::kMaxFindings)
    report->findings.push_back(std::move(finding));
}

void Conclude(PoolReport* report) {
  const auto has = [report](Severity severity) {
    return report->found[static_cast<size_t>(severity)] != 0;
  };
  if (has(Severity::kLoss))
    report->verdict = Verdict::kDamaged;
  else if (has(Severity::kRepairable) || has(Severity::kHarmless))
    report->verdict = Verdict::kRecoverable;
  // The worst first.
  std::stable_sort(report->findings.begin(), report->findings.end(),
                   [](const Finding& a, const Finding& b) { return a.severity > b.severity; });
}

// A pool whose metadata has a mirror: each copy is verified, and the report is that of the one with
// which an open would begin. The other's damage is no loss.
class MirrorChecker {
 public:
  MirrorChecker(Io& io, std::string dir, Witness witness)
      : io_(io),
        dir_(std::move(dir)),
        witness_(std::move(witness)),
        paths_{dir_ + "/meta", witness_.mirror_path} {}

  Result<PoolReport> Run() {
    for (size_t copy = 0; copy < kMetaCopies; ++copy) Look(copy);
    const size_t chosen = Choose();
    Result<PoolReport> report = Verify(chosen);
    if (!report.ok()) return report;
    report.value().mirror_path = witness_.mirror_path;
    if (!refused_.empty())
      Add(&report.value(), {Severity::kLoss, NameOf(chosen), "", std::move(refused_)});
    if (Status status = TellOther(1 - chosen, &report.value()); !status.ok()) return status;
    return report;
  }

 private:
  const std::string NameOf(size_t copy) const { return copy == 0 ? "meta" : paths_[1]; }
  Result<PoolReport> Verify(size_t copy) {
    return PoolChecker(io_, dir_, paths_[copy], NameOf(copy)).Run();
  }

  void Look(size_t copy) {
    Result<std::unique_ptr<File>> file = io_.OpenFile(paths_[copy], {.read_only = true});
    problems_[copy] =
        file.ok() ? CheckMetaCopy(witness_, copy, *file.value(), Access::kRead, &superblocks_[copy])
                  : file.TakeStatus();
    if (file.ok()) files_[copy] = std::move(file.value());
  }

  // As StoreImpl::ChooseCopy does.
  size_t Choose() {
    if (!problems_[0].ok() && !problems_[1].ok()) {
      refused_ = NoCopy(problems_[0], problems_[1]).message();
      return CopyCounts(witness_.counts, 0) ? 0 : 1;
    }
    if (!problems_[0].ok() || !problems_[1].ok()) return problems_[0].ok() ? 0 : 1;
    Result<bool> same = SameContent(*files_[0], *files_[1]);
    if (same.ok() && same.value()) return 0;
    Result<ChosenCopy> better = BetterCopy(io_, dir_, paths_, superblocks_);
    if (better.ok()) return better.value().copy;
    refused_ = better.status().message();
    return 0;
  }

  Status TellOther(size_t copy, PoolReport* report) {
    constexpr const char* kMeaning = "; an open goes on with the other copy";
    const Severity worst = refused_.empty() ? Severity::kRepairable : Severity::kLoss;
    if (files_[copy] == nullptr || !CopyCounts(witness_.counts, copy)) {
      if (refused_.empty())
        Add(report, {Severity::kHarmless, NameOf(copy), "", problems_[copy].message() + kMeaning});
      return Status::Ok();
    }
    Result<PoolReport> other = Verify(copy);
    if (!other.ok()) return other.TakeStatus();
    const bool none = other.value().findings.empty();
    if (none && !problems_[copy].ok() && refused_.empty())
      Add(report, {worst, NameOf(copy), "", problems_[copy].message() + kMeaning});
    for (Finding& finding : other.value().findings) {
      if (finding.file != NameOf(copy)) continue;  // told with the first copy
      if (finding.severity == Severity::kLoss) {
        finding.severity = worst;
        if (refused_.empty()) finding.text += "; the other copy is whole";
      }
      Add(report, std::move(finding));
    }
    return Status::Ok();
  }

  Io& io_;
  const std::string dir_;
  const Witness witness_;
  const std::array<std::string, kMetaCopies> paths_;
  std::array<std::unique_ptr<File>, kMetaCopies> files_;
  std::array<Status, kMetaCopies> problems_;
  std::array<Superblock, kMetaCopies> superblocks_;
  std::string refused_;  // why an open would take neither
};

// The witness, where an open would look for it; sequence 0 where there is none.
struct MirrorState {
  bool marked = false;  // the pool's own copy says that there is a mirror
  bool own_usable = false;
  Witness witness;
};

MirrorState FindMirror(Io& io, const std::string& dir) {
  MirrorState state;
  if (Result<std::unique_ptr<File>> meta = io.OpenFile(dir + "/meta", {.read_only = true});
      meta.ok()) {
    Result<Superblock> superblock = ReadSuperblock(*meta.value(), Access::kRead);
    state.own_usable = superblock.ok();
    state.marked = superblock.ok() && (superblock.value().incompat_features & kFeatureMirror) != 0;
  }
  if (state.own_usable && !state.marked) return state;
  if (Result<std::unique_ptr<File>> tracks = io.OpenFile(dir + "/tracks", {.read_only = true});
      tracks.ok())
    if (Result<Witness> witness = ReadWitness(*tracks.value()); witness.ok())
      state.witness = std::move(witness.value());
  return state;
}

}  // namespace

Result<PoolReport> CheckPool(Io& io, const std::string& dir) {
  Result<std::shared_ptr<void>> lock = LockPool(io, dir);
  if (!lock.ok()) return lock.TakeStatus();
  MirrorState mirror = FindMirror(io, dir);
  const bool lost = mirror.marked && mirror.witness.sequence == 0;
  Result<PoolReport> report = mirror.witness.attached()
                                  ? MirrorChecker(io, dir, std::move(mirror.witness)).Run()
                                  : PoolChecker(io, dir, dir + "/meta", "meta").Run();
  if (!report.ok()) return report;
  if (lost)
    Add(&report.value(),
        {Severity::kLoss, "tracks", "witness",
         "both records of which copy of the metadata counts are unreadable: restore the pool "
         "directory from a backup"});
  Conclude(&report.value());
  return report;
}

}  // namespace flashlun
