// The mirror of the metadata: any one of the two copies may be damaged or gone, the one that is out
// of date is never used, and a crash at any write of making them equal loses nothing.
#include "core/mirror.h"

#include <set>

#include "core/checkpoint.h"
#include "core/pool_check.h"
#include "core/superblock.h"
#include "core/thread_io.h"
#include "test/fibers.h"
#include "test/pool_fixture.h"
#include "test/pool_metadata.h"
#include "test/sim_io.h"

namespace flashlun {
namespace {

constexpr uint16_t kA = 0x1203;
constexpr uint64_t kGroups = 6;

class MirrorPool : public PoolFixture {
 public:
  MirrorPool() { options().meta_mirror = mirror(); }
  std::string Beside(const char* name) const {
    return std::filesystem::path(PathOf("x")).parent_path().parent_path() / name;
  }
  std::string mirror() const { return Beside("mirror"); }
  std::string PathOfCopy(size_t copy) const { return copy == 0 ? PathOf("meta") : mirror(); }

  // Two checkpoints, then journal groups.
  void Make() {
    for (uint64_t session = 0; session < 2; ++session) {
      Open();
      Volume a = session == 0 ? Create(kA, 64) : store().Attach(kA).value();
      Fill(a, session * 300000, 300000, 'a');
      a = Volume();
      Close();
    }
    Open();
    Volume a = store().Attach(kA).value();
    for (uint64_t i = 0; i < kGroups; ++i) {
      Fill(a, (20 + i) * kTrackBytes, kTrackBytes, 'j');
      REQUIRE(store().Flush().ok());
    }
  }
  void CheckContent() {
    Volume a = store().Attach(kA).value();
    CHECK(Holds(a, 0, 600000, 'a'));
    CHECK(Holds(a, 20 * kTrackBytes, kGroups * kTrackBytes, 'j'));
  }
  // Content as it was, and two equal copies.
  void CheckHealed() {
    CheckContent();
    CHECK(store().Info().mirror_problem.empty());
    CHECK(store().Info().mirror_path == mirror());
    CheckEqual();
  }
  void CheckEqual() {
    const std::unique_ptr<Io> io = MakeThreadIo();
    CHECK(SameContent(*io->OpenFile(PathOfCopy(0), {}).value(),
                      *io->OpenFile(PathOfCopy(1), {}).value())
              .value());
  }
  Witness ReadWitnessNow() {
    const std::unique_ptr<Io> io = MakeThreadIo();
    return ReadWitness(*io->OpenFile(PathOf("tracks"), {}).value()).value();
  }
  PoolReport Check() {
    const std::unique_ptr<Io> io = MakeThreadIo();
    Result<PoolReport> report = CheckPool(*io, PathOf("."));
    REQUIRE_MESSAGE(report.ok(), report.status().message());
    return std::move(report.value());
  }
  // A copy of everything, as after a SIGKILL.
  void CopyTo(MirrorPool& other) const {
    const std::string path = other.mirror();
    CopyPoolTo(other);
    other.options().meta_mirror = path;
    std::filesystem::copy_file(mirror(), path);
    // The pool remembers a path: that of the copy is another one.
    const std::unique_ptr<Io> io = MakeThreadIo();
    const std::unique_ptr<File> tracks =
        std::move(io->OpenFile(other.PathOf("tracks"), {}).value());
    Witness witness = ReadWitness(*tracks).value();
    ++witness.sequence;
    witness.mirror_path = path;
    bool lost = false;
    REQUIRE(WriteWitness(*tracks, witness, &lost).ok());
  }
  void Flip(size_t copy, uint64_t offset) { FlipBit(copy == 0 ? "meta" : "../mirror", offset); }
};

// Every structure of the metadata, by a name and the bytes that are flipped.
std::vector<std::pair<std::string, std::vector<uint64_t>>> Structures(const MirrorPool& pool) {
  const std::unique_ptr<Io> io = MakeThreadIo();
  const Superblock superblock =
      ReadSuperblock(*io->OpenFile(pool.PathOf("meta"), {}).value()).value();
  std::vector<std::pair<std::string, std::vector<uint64_t>>> all;
  std::vector<uint64_t> superblocks;
  for (const uint64_t at : kSuperblockOffsets) superblocks.push_back(at + 100);
  all.emplace_back("superblocks", superblocks);
  all.emplace_back("identity", std::vector<uint64_t>{kIdentityOffset + 20});
  for (uint64_t seq = superblock.previous.replay.next_seq;
       seq < superblock.current.replay.next_seq + kGroups; ++seq)
    all.emplace_back("journal block " + std::to_string(seq),
                     std::vector<uint64_t>{kJournalOffset + seq * kBlockBytes + 80});
  const uint64_t pages = PagesOffset(superblock.journal_blocks);
  for (const bool previous : {false, true})
    for (const uint64_t page : PagesOfCheckpoint(pool.PathOf("meta"), previous))
      all.emplace_back((previous ? "previous page " : "page ") + std::to_string(page),
                       std::vector<uint64_t>{pages + page * kPageBytes + 17});
  return all;
}

TEST_CASE_FIXTURE(MirrorPool, "any structure of either copy may be damaged") {
  Make();
  Abandon();
  CheckEqual();
  CHECK(Check().verdict == Verdict::kClean);
  CHECK(Check().mirror_path == mirror());
  const auto structures = Structures(*this);
  CHECK(structures.size() > 16);
  for (const auto& [name, bytes] : structures) {
    for (size_t copy = 0; copy < kMetaCopies; ++copy) {
      CAPTURE(name);
      CAPTURE(copy);
      MirrorPool damaged;
      CopyTo(damaged);
      for (const uint64_t at : bytes) damaged.Flip(copy, at);
      const PoolReport report = damaged.Check();
      CHECK(report.verdict == (name == "identity" ? Verdict::kClean : Verdict::kRecoverable));
      damaged.Open();
      damaged.CheckHealed();
      CHECK(!damaged.store().Info().used_previous_checkpoint);
      CHECK(!damaged.store().Info().healed_copy.empty());
      damaged.Close();
      CHECK(damaged.Check().verdict == Verdict::kClean);
    }
  }
}

TEST_CASE_FIXTURE(MirrorPool, "either copy may be gone; the mirror comes back when asked for") {
  Make();
  Close();
  std::filesystem::remove(PathOf("meta"));
  CHECK(Check().verdict == Verdict::kRecoverable);
  options().meta_mirror.clear();  // remembered
  Open();
  CheckHealed();
  CHECK(!store().Info().created);
  Close();
  std::filesystem::remove(mirror());
  CHECK(Check().verdict == Verdict::kRecoverable);
  Open();
  CheckContent();
  CHECK(store().Info().mirror_problem.find("makes it anew") != std::string::npos);
  CHECK(ReadWitnessNow().counts == Counts::kOnlyPrimary);
  Close();
  CHECK(!std::filesystem::exists(mirror()));
  options().meta_mirror = mirror();
  Open();
  CheckHealed();
  Close();
  CHECK(Check().verdict == Verdict::kClean);
}

TEST_CASE_FIXTURE(MirrorPool, "a copy that is out of date is never used") {
  Make();
  Close();
  std::filesystem::rename(mirror(), Beside("away"));
  options().meta_mirror.clear();
  Open();
  {
    Volume a = store().Attach(kA).value();
    Fill(a, 0, kTrackBytes, 'n');
  }
  Close();
  std::filesystem::rename(Beside("away"), mirror());
  std::filesystem::rename(PathOf("meta"), Beside("away"));
  const PoolReport report = Check();
  CHECK(report.verdict == Verdict::kDamaged);
  const Status status = TryOpen();
  CHECK(status.code() == Code::kIo);
  CHECK(status.message().find("out of date") != std::string::npos);
  CHECK(status.message().find(PathOf("meta")) != std::string::npos);
  CHECK(status.message().find(mirror()) != std::string::npos);
  std::filesystem::rename(Beside("away"), PathOf("meta"));
  Open();
  CHECK(store().Info().mirror_problem.empty());
  CheckEqual();
  Volume a = store().Attach(kA).value();
  CHECK(Holds(a, 0, kTrackBytes, 'n'));
}

TEST_CASE_FIXTURE(MirrorPool, "swapped copies are noticed, a copied one is taken for what it is") {
  Make();
  Close();
  std::filesystem::rename(PathOf("meta"), Beside("away"));
  std::filesystem::rename(mirror(), PathOf("meta"));
  std::filesystem::rename(Beside("away"), mirror());
  const Status status = TryOpen();
  CHECK(status.code() == Code::kCorrupt);
  CHECK(status.message().find("wrong name") != std::string::npos);
  CHECK(Check().verdict == Verdict::kDamaged);
  std::filesystem::copy_file(PathOf("meta"), mirror(),
                             std::filesystem::copy_options::overwrite_existing);
  Open();
  CheckHealed();
}

TEST_CASE_FIXTURE(MirrorPool, "given up, moved, and what may not become a mirror") {
  Make();
  Close();
  options().meta_mirror = "none";
  Open();
  CHECK(store().Info().mirror_path.empty());
  CheckContent();
  Close();
  CHECK((ReadSuperblock(*io().OpenFile(PathOf("meta"), {}).value()).value().incompat_features &
         kFeatureMirror) == 0);
  options().meta_mirror.clear();
  Open();
  CHECK(store().Info().mirror_path.empty());
  Close();
  // A former mirror may be one again, something else not.
  options().meta_mirror = mirror();
  Open();
  CheckHealed();
  Close();
  const std::string other = Beside("other");
  std::ofstream(other) << std::string(20000, 'x');
  options().meta_mirror = other;
  CHECK(TryOpen().code() == Code::kExists);
  CHECK(std::filesystem::file_size(other) == 20000);
  options().meta_mirror = PathOf("../nowhere/mirror");
  CHECK(TryOpen().code() == Code::kIo);
  options().meta_mirror = PathOf("meta");
  CHECK(TryOpen().code() == Code::kExists);
  options().meta_mirror = Beside("moved");
  Open();
  CheckContent();
  CHECK(store().Info().mirror_path == Beside("moved"));
  CHECK(store().Info().mirror_problem.empty());
  Close();
  options().meta_mirror.clear();
  std::filesystem::remove(PathOf("meta"));
  Open();
  CheckContent();
}

TEST_CASE_FIXTURE(MirrorPool, "another pool's file at the mirror's path is left alone") {
  Make();
  Close();
  MirrorPool other;
  other.Make();
  other.Close();
  std::filesystem::copy_file(other.mirror(), mirror(),
                             std::filesystem::copy_options::overwrite_existing);
  Open();
  CheckContent();
  CHECK(store().Info().mirror_problem.find("of another pool") != std::string::npos);
  Close();
  std::ifstream theirs(other.mirror(), std::ios::binary);
  std::ifstream here(mirror(), std::ios::binary);
  CHECK(std::string(std::istreambuf_iterator<char>(theirs), {}) ==
        std::string(std::istreambuf_iterator<char>(here), {}));
}

TEST_CASE_FIXTURE(MirrorPool,
                  "a pool directory from a backup wins over a mirror of a later session") {
  Make();
  Close();
  const std::string backup = Beside("backup");
  std::filesystem::copy(PathOf("."), backup, std::filesystem::copy_options::recursive);
  Open();
  {
    Volume a = store().Attach(kA).value();
    Fill(a, 0, kTrackBytes, 'n');
    REQUIRE(store().DeleteVolume(0x7777).code() == Code::kNotFound);
  }
  Close();
  std::filesystem::remove_all(options().dir);
  std::filesystem::copy(backup, options().dir, std::filesystem::copy_options::recursive);
  Open();
  CHECK(store().Info().healed_copy.find("later session") != std::string::npos);
  CheckHealed();
}

TEST_CASE_FIXTURE(MirrorPool, "the witness: one place may be damaged, not both") {
  Make();
  Close();
  FlipBit("tracks", kWitnessOffsets[1] + 30);
  Open();
  CheckHealed();
  Close();
  for (const uint64_t at : kWitnessOffsets) FlipBit("tracks", at + 30);
  CHECK(Check().verdict == Verdict::kDamaged);
  CHECK(TryOpen().code() == Code::kCorrupt);
  for (const uint64_t at : kWitnessOffsets) FlipBit("tracks", at + 30);
  Open();
  CheckHealed();
}

// A simulated machine with a pool that was killed in the middle of its work.
class SimPool {
 public:
  SimPool() {
    Fibers fibers(rng_);
    SimIo io(rng_, &fibers);
    fibers.Spawn("life", [&] {
      std::unique_ptr<Store> store = std::move(Store::Open(io, Options("mirror")).value());
      REQUIRE(store->CreateVolume(kA, 4 * kTrackBytes, "").ok());
      Volume a = store->Attach(kA).value();
      OpSlot* slot = store->AcquireSlot();
      const std::vector<char> data(kTrackBytes, 'a');
      // The last write to the mirror is the one of the last group.
      io.set_hook([&](const IoCall& call) {
        if (call.kind == IoKind::kWrite && !call.middle && call.path == "mirror")
          differing_ = io.Crash(CrashKind::kKill, rng_, nullptr);
        return Fault::kNone;
      });
      for (uint64_t track = 0; track < 3; ++track) {
        REQUIRE(a.Write(*slot, track * kTrackBytes, data.data(), data.size()).ok());
        REQUIRE(store->Flush().ok());
      }
      store->ReleaseSlot(slot);
      base_ = io.Crash(CrashKind::kKill, rng_, nullptr);
    });
    REQUIRE(fibers.Run([] { return true; }).empty());
  }
  static StoreOptions Options(const char* mirror) {
    StoreOptions options;
    options.dir = "pool";
    options.capacity_bytes = 16 * kTrackBytes;
    options.journal_blocks = 24;
    options.kill_ring_bytes = 16384;
    options.meta_mirror = mirror;
    return options;
  }
  uint64_t flushed_tracks = 3;  // the third one only when the last flush was answered
  SimIo::Rng& rng() { return rng_; }
  std::unique_ptr<SimIo> Machine() { return base_->Crash(CrashKind::kKill, rng_, nullptr); }

  // Killed when one copy had the last group already and the other one not.
  std::unique_ptr<SimIo> Differing() { return differing_->Crash(CrashKind::kKill, rng_, nullptr); }

  // Opens, with a death at every write in turn, and looks at what any crash then leaves. `whole`:
  // both copies are, to begin with.
  void DieEverywhere(const std::function<std::unique_ptr<SimIo>()>& make, const char* mirror,
                     bool whole = true) {
    const uint64_t sequence = WitnessOf(*make()).sequence;
    uint64_t deaths = 0;
    for (bool died = true; died; ++deaths) {
      const std::unique_ptr<SimIo> machine = make();
      machine->DieAfter(deaths);
      try {
        died = false;
        const Result<std::unique_ptr<Store>> store = Store::Open(*machine, Options(mirror));
        REQUIRE(store.ok());
      } catch (const SimulatedDeath&) {
        died = true;
      }
      CAPTURE(deaths);
      for (int crash = 0; crash < 8; ++crash)
        LoseEach(
            *machine->Crash(crash == 0 ? CrashKind::kKill : CrashKind::kPowerLoss, rng_, nullptr),
            mirror, whole ? 0 : sequence);
    }
    CHECK(deaths > 6);
  }

 private:
  static Witness WitnessOf(SimIo& machine) {
    return ReadWitness(*machine.OpenFile("pool/tracks", {}).value()).value();
  }
  // Nothing, or one of the copies that count, if a later witness than the one of `sequence` says
  // so.
  void LoseEach(SimIo& machine, const char* mirror, uint64_t sequence) {
    const Witness witness = WitnessOf(machine);
    CheckContent(*machine.Crash(CrashKind::kKill, rng_, nullptr), mirror);
    CheckContent(*machine.Crash(CrashKind::kKill, rng_, nullptr), "");
    if (!witness.attached() || witness.counts != Counts::kBoth || witness.sequence <= sequence)
      return;
    for (const std::string& path : {std::string("pool/meta"), witness.mirror_path}) {
      const std::unique_ptr<SimIo> without = machine.Crash(CrashKind::kKill, rng_, nullptr);
      without->Remove(path);
      CAPTURE(path);
      CheckContent(*without, mirror);
    }
  }
  void CheckContent(SimIo& machine, const char* mirror) {
    Result<std::unique_ptr<Store>> store = Store::Open(machine, Options(mirror));
    REQUIRE_MESSAGE(store.ok(), store.status().message());
    OpSlot* slot = store.value()->AcquireSlot();
    std::string data(flushed_tracks * kTrackBytes, '?');
    REQUIRE(store.value()
                ->Attach(kA)
                .value()
                .Read(*slot, 0, data.data(), data.size(), ReadMode::kBlocking)
                .ok());
    // Without the string itself in a message.
    const bool same = data == std::string(data.size(), 'a');
    CHECK(same);
    store.value()->ReleaseSlot(slot);
  }

  SimIo::Rng rng_{7};
  std::unique_ptr<SimIo> base_;
  std::unique_ptr<SimIo> differing_;
};

TEST_CASE("a crash at every write of making the copies equal") {
  SimPool pool;
  const auto damaged = [&](size_t copy) {
    return [&pool, copy] {
      std::unique_ptr<SimIo> machine = pool.Machine();
      machine->FlipBit(copy == 0 ? "pool/meta" : "mirror", kJournalOffset + 2 * kBlockBytes + 90);
      return machine;
    };
  };
  pool.flushed_tracks = 2;
  pool.DieEverywhere([&] { return pool.Differing(); }, "mirror");
  pool.flushed_tracks = 3;
  pool.DieEverywhere(damaged(0), "mirror", false);
  pool.DieEverywhere(damaged(1), "mirror", false);
  pool.DieEverywhere([&] { return pool.Machine(); }, "mirror");
}

TEST_CASE("a crash at every write of making a copy anew") {
  SimPool pool;
  for (const char* path : {"pool/meta", "mirror"}) {
    CAPTURE(path);
    pool.DieEverywhere(
        [&] {
          std::unique_ptr<SimIo> machine = pool.Machine();
          machine->Remove(path);
          return machine;
        },
        "mirror", false);
  }
}

TEST_CASE("a crash at every write of giving the mirror up, moving it, and making it") {
  SimPool pool;
  pool.DieEverywhere([&] { return pool.Machine(); }, "none");
  pool.DieEverywhere([&] { return pool.Machine(); }, "moved");
  pool.DieEverywhere(
      [&] {
        std::unique_ptr<SimIo> machine = pool.Machine();
        REQUIRE(Store::Open(*machine, SimPool::Options("none")).ok());
        return machine->Crash(CrashKind::kKill, pool.rng(), nullptr);
      },
      "second");
}

}  // namespace
}  // namespace flashlun
