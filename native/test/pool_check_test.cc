// CheckPool: every kind of damage is found, named and classified as what an open makes of it; and
// nothing is ever changed.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "core/pool_check.h"

#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/checkpoint.h"
#include "core/crc32c.h"
#include "core/kill_ring.h"
#include "core/superblock.h"
#include "core/thread_io.h"
#include "test/pool_fixture.h"
#include "test/pool_metadata.h"

namespace flashlun {
namespace {

constexpr uint16_t kA = 0x1203;
constexpr uint16_t kB = 0x1303;

// Two checkpoints, then six journal groups, then records in the kill ring only.
void MakePool(PoolFixture& pool, PoolFixture& killed) {
  pool.options().autocommit_ms = 600'000;
  pool.Open();
  {
    Volume a = pool.Create(kA, 64);
    pool.Create(kB, 64);
    pool.Fill(a, 0, 300000, 'a');
  }
  pool.Close();
  pool.Open();
  {
    Volume a = pool.store().Attach(kA).value();
    pool.Fill(a, 10 * kTrackBytes, kTrackBytes, 'b');
  }
  pool.Close();
  pool.Open();
  Volume a = pool.store().Attach(kA).value();
  pool.Establish(kA, kB, kRelNoCopy);
  for (uint64_t i = 0; i < 5; ++i) {
    pool.Fill(a, (20 + i) * kTrackBytes, kTrackBytes, 'j');
    REQUIRE(pool.store().Flush().ok());
  }
  pool.Fill(a, 30 * kTrackBytes, 2 * kTrackBytes, 'k');
  pool.CopyPoolTo(killed);
}

struct Seen {
  std::string bytes;
  timespec changed{};
};

std::map<std::string, Seen> Snapshot(const PoolFixture& pool) {
  std::map<std::string, Seen> files;
  for (const auto& entry : std::filesystem::directory_iterator(pool.PathOf(""))) {
    std::ifstream in(entry.path(), std::ios::binary);
    struct stat meta {};
    REQUIRE(::stat(entry.path().c_str(), &meta) == 0);
    files[entry.path().filename()] = {std::string(std::istreambuf_iterator<char>(in), {}),
                                      meta.st_mtim};
  }
  return files;
}

// The report, which must have left every file as it was.
PoolReport Check(const PoolFixture& pool) {
  const std::unique_ptr<Io> io = MakeThreadIo();
  const auto before = Snapshot(pool);
  Result<PoolReport> report = CheckPool(*io, pool.PathOf("."));
  REQUIRE_MESSAGE(report.ok(), report.status().message());
  const auto after = Snapshot(pool);
  CHECK(before.size() == after.size());
  for (const auto& [name, seen] : before) {
    CHECK_MESSAGE(seen.bytes == after.at(name).bytes, name);
    CHECK(seen.changed.tv_sec == after.at(name).changed.tv_sec);
    CHECK(seen.changed.tv_nsec == after.at(name).changed.tv_nsec);
  }
  return std::move(report.value());
}

std::string Lines(const PoolReport& report) {
  std::string text = VerdictName(report.verdict);
  for (const Finding& finding : report.findings)
    text += std::string("\n") + SeverityName(finding.severity) + " | " + finding.file + " | " +
            finding.place + " | " + finding.text;
  return text;
}

bool Tells(const PoolReport& report, Severity severity, const std::string& file,
           const std::string& place) {
  return std::any_of(report.findings.begin(), report.findings.end(), [&](const Finding& finding) {
    return finding.severity == severity && finding.file == file &&
           finding.place.find(place) != std::string::npos;
  });
}

// A verdict is a promise about the next open.
void CheckPromise(PoolFixture& pool, const PoolReport& report) {
  const Status status = pool.TryOpen();
  CHECK_MESSAGE(status.ok() == (report.verdict != Verdict::kDamaged),
                Lines(report) << "\nopen: " << status.message());
  pool.Abandon();
}

TEST_CASE_FIXTURE(PoolFixture, "a pool that was closed, and one that was killed, are clean") {
  PoolFixture killed;
  MakePool(*this, killed);
  const PoolReport report = Check(killed);
  CHECK_MESSAGE(report.verdict == Verdict::kClean, Lines(report));
  CHECK(report.findings.empty());
  CHECK(!report.closed_in_order);
  CHECK(report.superblock_copies == 4);
  CHECK(report.groups == 6);
  CHECK(report.records == 6);
  CHECK(report.ring_records == 2);
  CHECK(report.volumes == 2);
  CHECK(report.relationships == 1);
  CHECK(report.used_tracks == 13);
  CHECK(report.mapped_tracks == 6 + 13);
  CHECK(report.tracks_bytes >= report.needed_bytes);
  CheckPromise(killed, report);
  Close();
  const PoolReport closed = Check(*this);
  CHECK_MESSAGE(closed.verdict == Verdict::kClean, Lines(closed));
  CHECK(closed.closed_in_order);
  CHECK(closed.records == 0);
  CHECK(closed.used_tracks == 13);
  CHECK(closed.last_lsn == report.last_lsn);
}

TEST_CASE_FIXTURE(PoolFixture, "superblock copies: harmless up to three, then all is lost") {
  PoolFixture killed;
  MakePool(*this, killed);
  for (uint32_t copy = 0; copy < 4; ++copy) {
    const std::string place = "superblock copy " + std::to_string(copy);
    killed.FlipBit("meta", kSuperblockOffsets[copy] + 3000);
    const PoolReport alone = Check(killed);
    CHECK_MESSAGE(alone.verdict == Verdict::kRecoverable, Lines(alone));
    CHECK(alone.findings.size() == 1);
    CHECK(Tells(alone, Severity::kHarmless, "meta", place));
    killed.FlipBit("meta", kSuperblockOffsets[copy] + 3000);
  }
  for (uint32_t copy = 0; copy < 4; ++copy) killed.FlipBit("meta", kSuperblockOffsets[copy] + 60);
  const PoolReport all = Check(killed);
  CHECK(all.verdict == Verdict::kDamaged);
  CHECK(all.found[static_cast<size_t>(Severity::kLoss)] == 4);
  CheckPromise(killed, all);
}

TEST_CASE_FIXTURE(PoolFixture, "every page of both checkpoints") {
  PoolFixture killed;
  MakePool(*this, killed);
  const std::set<uint64_t> current = PagesOfCheckpoint(killed.PathOf("meta"), false);
  const std::set<uint64_t> previous = PagesOfCheckpoint(killed.PathOf("meta"), true);
  std::set<uint64_t> pages = current;
  pages.insert(previous.begin(), previous.end());
  CHECK(pages.size() > current.size());
  for (const uint64_t page : pages) {
    PoolFixture copy;
    killed.CopyPoolTo(copy);
    copy.FlipBit("meta", PagesOffset(copy.options().journal_blocks) + page * kPageBytes + 17);
    const PoolReport report = Check(copy);
    CAPTURE(page);
    CAPTURE(Lines(report));
    const bool both = current.contains(page) && previous.contains(page);
    CHECK(report.verdict == (both ? Verdict::kDamaged : Verdict::kRecoverable));
    // The second page of a wide leaf is named by the first.
    CHECK((Tells(report,
                 both                     ? Severity::kLoss
                 : current.contains(page) ? Severity::kRepairable
                                          : Severity::kHarmless,
                 "meta", current.contains(page) ? "current checkpoint, page" : "previous")));
    CheckPromise(copy, report);
  }
}

TEST_CASE_FIXTURE(PoolFixture, "all damaged pages are listed, not only the first") {
  PoolFixture killed;
  MakePool(*this, killed);
  const std::set<uint64_t> pages = PagesOfCheckpoint(killed.PathOf("meta"), false);
  const uint64_t manifest = SuperblockOf(killed.PathOf("meta")).current.manifest_page;
  for (const uint64_t page : pages)
    if (page != manifest)
      killed.FlipBit("meta", PagesOffset(killed.options().journal_blocks) + page * kPageBytes);
  const PoolReport report = Check(killed);
  // The table page hides the nodes that only it names.
  CHECK_MESSAGE(report.verdict == Verdict::kDamaged, Lines(report));
  CHECK(Tells(report, Severity::kLoss, "meta", "current checkpoint, page"));
  CHECK(Tells(report, Severity::kLoss, "meta", "previous checkpoint, page"));
  CheckPromise(killed, report);
}

TEST_CASE_FIXTURE(PoolFixture, "every block of the journal") {
  PoolFixture killed;
  MakePool(*this, killed);
  const Superblock superblock = SuperblockOf(killed.PathOf("meta"));
  const uint64_t begin = superblock.previous.replay.next_seq;
  const uint64_t middle = superblock.current.replay.next_seq;
  const uint64_t last = middle + 5;  // six groups of one block each
  for (uint64_t seq = 1; seq <= last; ++seq) {
    CAPTURE(seq);
    PoolFixture copy;
    killed.CopyPoolTo(copy);
    copy.FlipBit("meta", kJournalOffset + seq * kBlockBytes + 80);
    const PoolReport report = Check(copy);
    CAPTURE(Lines(report));
    const std::string place = "journal block " + std::to_string(seq);
    if (seq < begin) {
      CHECK(report.verdict == Verdict::kClean);
      CHECK(Tells(report, Severity::kNote, "meta", place));
    } else if (seq < middle) {
      CHECK(report.verdict == Verdict::kRecoverable);
      CHECK(Tells(report, Severity::kHarmless, "meta", place));
    } else {
      // The last one too: the kill ring holds what came behind it.
      CHECK(report.verdict == Verdict::kDamaged);
      CHECK(Tells(report, Severity::kLoss, "meta", place));
    }
    CheckPromise(copy, report);
  }
  // After a power loss the ring says nothing, and the last group looks like one that was cut off.
  killed.FlipBit("ring", 0);
  killed.FlipBit("meta", kJournalOffset + last * kBlockBytes + 80);
  const PoolReport torn = Check(killed);
  CHECK_MESSAGE(torn.verdict == Verdict::kRecoverable, Lines(torn));
  CHECK(Tells(torn, Severity::kRepairable, "meta", "journal block " + std::to_string(last)));
  CheckPromise(killed, torn);
}

// The fallback must reach what the damaged checkpoint held: without the last group before it, it
// would be an older state that looks sound.
TEST_CASE_FIXTURE(PoolFixture, "a damaged checkpoint, and the last journal block before it") {
  PoolFixture killed;
  MakePool(*this, killed);
  Close();
  const Superblock superblock = SuperblockOf(PathOf("meta"));
  const uint64_t page = superblock.current.manifest_page;
  FlipBit("meta", PagesOffset(superblock.journal_blocks) + page * kPageBytes);
  const PoolReport page_only = Check(*this);
  CHECK_MESSAGE(page_only.verdict == Verdict::kRecoverable, Lines(page_only));
  const uint64_t last = superblock.current.replay.next_seq - 1;
  FlipBit("meta", kJournalOffset + last * kBlockBytes + 80);
  const PoolReport both = Check(*this);
  CHECK_MESSAGE(both.verdict == Verdict::kDamaged, Lines(both));
  CHECK(TryOpen().code() == Code::kCorrupt);
  FlipBit("meta", kJournalOffset + last * kBlockBytes + 80);
  Open();
  CHECK(store().Info().used_previous_checkpoint);
}

TEST_CASE_FIXTURE(PoolFixture, "the kill ring") {
  PoolFixture killed;
  MakePool(*this, killed);
  const auto damaged = [&killed](uint64_t offset) {
    killed.FlipBit("ring", offset);
    PoolReport report = Check(killed);
    killed.FlipBit("ring", offset);
    return report;
  };
  const PoolReport header = damaged(30);
  CHECK_MESSAGE(header.verdict == Verdict::kRecoverable, Lines(header));
  CHECK(Tells(header, Severity::kRepairable, "ring", "header"));
  // The two records that wait are behind those of six groups: 32 bytes each, and their frames.
  const uint64_t frame = KillRing::BytesFor(32);
  const PoolReport first = damaged(KillRing::kHeaderBytes + 6 * frame + 30);
  CHECK_MESSAGE(first.verdict == Verdict::kDamaged, Lines(first));
  CHECK(Tells(first, Severity::kLoss, "ring", ""));
  // The last one may have been in the making when the process died.
  const PoolReport last = damaged(KillRing::kHeaderBytes + 7 * frame + 30);
  CHECK_MESSAGE(last.verdict == Verdict::kClean, Lines(last));
  CHECK(last.ring_records == 1);
  std::filesystem::resize_file(killed.PathOf("ring"), 10000);
  const PoolReport cut = Check(killed);
  CHECK(Tells(cut, Severity::kRepairable, "ring", "byte 10000"));
  std::filesystem::remove(killed.PathOf("ring"));
  const PoolReport missing = Check(killed);
  CHECK(missing.verdict == Verdict::kRecoverable);
  CHECK(Tells(missing, Severity::kRepairable, "ring", ""));
  CheckPromise(killed, missing);
}

TEST_CASE_FIXTURE(PoolFixture, "a damaged record in front of intact ones in the ring is refused") {
  PoolFixture killed;
  MakePool(*this, killed);
  killed.FlipBit("ring", KillRing::kHeaderBytes + 6 * KillRing::BytesFor(32) + 30);
  const Status status = killed.TryOpen();
  CHECK(status.code() == Code::kCorrupt);
  CHECK(status.message().find(killed.PathOf("ring")) != std::string::npos);
}

TEST_CASE_FIXTURE(PoolFixture, "label, truncation and missing files") {
  PoolFixture killed;
  MakePool(*this, killed);
  killed.FlipBit("tracks", 20);
  const PoolReport label = Check(killed);
  CHECK(label.verdict == Verdict::kDamaged);
  CHECK(Tells(label, Severity::kLoss, "tracks", "label"));
  killed.FlipBit("tracks", 20);
  const auto size = std::filesystem::file_size(killed.PathOf("tracks"));
  // The file is longer than what is mapped: it grows ahead of the writers.
  std::ifstream file(killed.PathOf("tracks"), std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::filesystem::resize_file(killed.PathOf("tracks"), bytes.find_last_not_of('\0'));
  const PoolReport cut = Check(killed);
  CHECK(cut.verdict == Verdict::kDamaged);
  CHECK(Tells(cut, Severity::kLoss, "tracks", "end"));
  CheckPromise(killed, cut);
  std::ofstream(killed.PathOf("tracks"), std::ios::binary) << bytes;
  CHECK(std::filesystem::file_size(killed.PathOf("tracks")) == size);
  std::filesystem::resize_file(killed.PathOf("meta"), (1 << 20) + 50000);
  const PoolReport meta = Check(killed);
  CHECK(meta.verdict == Verdict::kDamaged);
  CHECK(Tells(meta, Severity::kLoss, "meta", "byte 1098576"));
  for (const char* name : {"tracks", "meta"}) {
    PoolFixture copy;
    CopyPoolTo(copy);
    std::filesystem::remove(copy.PathOf(name));
    const PoolReport missing = Check(copy);
    CHECK(missing.verdict == Verdict::kDamaged);
    CHECK(Tells(missing, Severity::kLoss, name, ""));
    CheckPromise(copy, missing);
  }
}

TEST_CASE_FIXTURE(PoolFixture, "no pool there, or a pool that is open") {
  const std::unique_ptr<Io> io = MakeThreadIo();
  CHECK(CheckPool(*io, PathOf("nothing")).status().code() == Code::kNotFound);
  CHECK(!std::filesystem::exists(PathOf("nothing")));
  Open();
  const Status status = CheckPool(*io, PathOf(".")).TakeStatus();
  CHECK(status.code() == Code::kLocked);
  CHECK(status.message().find("stop the server first") != std::string::npos);
  Close();
  CHECK(Check(*this).verdict == Verdict::kClean);
}

// Changes a field in all four superblock copies, with a checksum that fits.
void Patch(const PoolFixture& pool, uint64_t at, uint32_t value) {
  const std::unique_ptr<Io> io = MakeThreadIo();
  const std::unique_ptr<File> meta = std::move(io->OpenFile(pool.PathOf("meta"), {}).value());
  for (const uint64_t offset : kSuperblockOffsets) {
    std::vector<uint8_t> block(kBlockBytes);
    REQUIRE(meta->Pread(offset, block.data(), block.size()).ok());
    std::memcpy(block.data() + at, &value, sizeof value);
    std::memset(block.data() + 12, 0, 4);
    const uint32_t crc = Crc32c(0, block.data(), block.size());
    std::memcpy(block.data() + 12, &crc, sizeof crc);
    REQUIRE(meta->Pwrite(offset, block.data(), block.size()).ok());
  }
}

TEST_CASE_FIXTURE(PoolFixture, "newer format versions and unknown features are refused by name") {
  Open();
  Close();
  const std::unique_ptr<Io> io = MakeThreadIo();
  Patch(*this, 8, 2);
  CHECK(TryOpen().message().find("format version 2") != std::string::npos);
  CHECK(CheckPool(*io, PathOf(".")).status().message().find("format version 2") !=
        std::string::npos);
  Patch(*this, 8, 1);
  Patch(*this, 224, 0x10);
  CHECK(TryOpen().code() == Code::kCorrupt);
  CHECK(TryOpen().message().find("features that this flashlun does not know (0x10)") !=
        std::string::npos);
  CHECK(CheckPool(*io, PathOf(".")).status().code() == Code::kCorrupt);
  Patch(*this, 224, 0);
  // One that only a writer must know.
  Patch(*this, 232, 0x1);
  CHECK(TryOpen().message().find("(0x1)") != std::string::npos);
  CHECK(Check(*this).verdict == Verdict::kClean);
  Patch(*this, 232, 0);
  Open();
}

}  // namespace
}  // namespace flashlun
