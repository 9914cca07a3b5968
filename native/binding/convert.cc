#include "binding/convert.h"

#include <cmath>

namespace flashlun::binding {
namespace {

// The relationship's flags as properties, both ways.
struct FlagName {
  const char* name;
  uint32_t flag;
};
constexpr FlagName kRelationshipFlags[] = {
    {"noCopy", kRelNoCopy},         {"persistent", kRelPersistent},
    {"record", kRelRecord},         {"inhibitTargetWrites", kRelInhibit},
    {"revertible", kRelRevertible},
};

constexpr double kMaxSafeInteger = 9007199254740991.0;

[[noreturn]] void ThrowInvalid(Napi::Env env, const std::string& message) {
  throw MakeError(env, Status(Code::kInvalid, message));
}

uint64_t ToInteger(Napi::Env env, const Napi::Value& value, const char* name, uint64_t max) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 0 && number <= kMaxSafeInteger) || number != std::floor(number) ||
      static_cast<uint64_t>(number) > max) {
    ThrowInvalid(env, std::string(name) + " must be an integer from 0 to " + std::to_string(max));
  }
  return static_cast<uint64_t>(number);
}

class ObjectBuilder {
 public:
  explicit ObjectBuilder(Napi::Env env) : env_(env), object_(Napi::Object::New(env)) {}
  ObjectBuilder& Count(const char* name, uint64_t value) {
    object_.Set(name, static_cast<double>(value));
    return *this;
  }
  ObjectBuilder& Time(const char* name, int64_t unix_ms) {
    object_.Set(name, static_cast<double>(unix_ms));
    return *this;
  }
  ObjectBuilder& Flag(const char* name, bool value) {
    object_.Set(name, Napi::Boolean::New(env_, value));
    return *this;
  }
  ObjectBuilder& Value(const char* name, Napi::Value value) {
    object_.Set(name, value);
    return *this;
  }
  ObjectBuilder& Text(const char* name, const std::string& value) {
    object_.Set(name, value);
    return *this;
  }
  template <typename T>
  ObjectBuilder& List(const char* name, const std::vector<T>& items) {
    object_.Set(name, ToJs(env_, items));
    return *this;
  }
  Napi::Value Done() const { return object_; }

 private:
  Napi::Env env_;
  Napi::Object object_;
};

}  // namespace

Napi::Error MakeError(Napi::Env env, const Status& status) {
  Napi::Error error = Napi::Error::New(env, status.message());
  error.Set("code", Napi::String::New(env, CodeName(status.code())));
  return error;
}

uint64_t IntegerArgument(const Napi::CallbackInfo& info, size_t index, const char* name,
                         uint64_t max) {
  return ToInteger(info.Env(), info[index], name, max);
}

bool BooleanArgument(const Napi::CallbackInfo& info, size_t index, const char* name) {
  if (!info[index].IsBoolean()) ThrowInvalid(info.Env(), std::string(name) + " must be a boolean");
  return info[index].As<Napi::Boolean>().Value();
}

std::string StringArgument(const Napi::CallbackInfo& info, size_t index, const char* name) {
  if (!info[index].IsString()) ThrowInvalid(info.Env(), std::string(name) + " must be a string");
  return info[index].As<Napi::String>().Utf8Value();
}

std::vector<uint8_t> BytesArgument(const Napi::CallbackInfo& info, size_t index, const char* name,
                                   size_t max_bytes) {
  const Napi::Value value = info[index];
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    ThrowInvalid(info.Env(), std::string(name) + " must be a Uint8Array");
  }
  const Napi::Uint8Array bytes = value.As<Napi::Uint8Array>();
  if (bytes.ByteLength() > max_bytes) {
    ThrowInvalid(info.Env(), std::string(name) + " is longer than " + std::to_string(max_bytes));
  }
  return std::vector<uint8_t>(bytes.Data(), bytes.Data() + bytes.ByteLength());
}

std::vector<uint64_t> CountsArgument(const Napi::CallbackInfo& info, size_t index, const char* name,
                                     size_t most) {
  const Napi::Env env = info.Env();
  if (!info[index].IsArray() || info[index].As<Napi::Array>().Length() > most)
    ThrowInvalid(env, std::string(name) + " must be an array of up to " + std::to_string(most));
  const Napi::Array array = info[index].As<Napi::Array>();
  std::vector<uint64_t> counts;
  for (uint32_t i = 0; i < array.Length(); i++)
    counts.push_back(ToInteger(env, array.Get(i), name, UINT64_MAX));
  return counts;
}

std::vector<uint16_t> VolumesArgument(const Napi::CallbackInfo& info, size_t index) {
  std::vector<uint16_t> ids;
  for (const uint64_t id : CountsArgument(info, index, "volume ids", kMaxVolumes)) {
    if (id > UINT16_MAX) ThrowInvalid(info.Env(), "a volume id has 16 bits");
    ids.push_back(static_cast<uint16_t>(id));
  }
  return ids;
}

static uint32_t RelationshipFlags(const Napi::Object& object) {
  uint32_t flags = 0;
  for (const auto& [name, flag] : kRelationshipFlags)
    if (object.Get(name).ToBoolean().Value()) flags |= flag;
  return flags;
}

uint32_t FlagsArgument(const Napi::CallbackInfo& info, size_t index) {
  if (!info[index].IsObject()) ThrowInvalid(info.Env(), "flags must be an object");
  return RelationshipFlags(info[index].As<Napi::Object>());
}

std::vector<PairSpec> PairsArgument(const Napi::CallbackInfo& info, size_t index) {
  const Napi::Env env = info.Env();
  if (!info[index].IsArray()) ThrowInvalid(env, "pairs must be an array");
  const Napi::Array array = info[index].As<Napi::Array>();
  if (array.Length() > kMaxPairsPerEstablish) {
    ThrowInvalid(env, "more than " + std::to_string(kMaxPairsPerEstablish) + " pairs at once");
  }
  std::vector<PairSpec> pairs;
  for (uint32_t i = 0; i < array.Length(); i++) {
    const Napi::Value item = array.Get(i);
    if (!item.IsObject()) ThrowInvalid(env, "a pair must be an object");
    const Napi::Object object = item.As<Napi::Object>();
    PairSpec pair;
    pair.source_id =
        static_cast<uint16_t>(ToInteger(env, object.Get("sourceId"), "sourceId", UINT16_MAX));
    pair.target_id =
        static_cast<uint16_t>(ToInteger(env, object.Get("targetId"), "targetId", UINT16_MAX));
    pair.flags = RelationshipFlags(object);
    pairs.push_back(pair);
  }
  return pairs;
}

Napi::Value ToJs(Napi::Env env, const VolumeInfo& volume) {
  return ObjectBuilder(env)
      .Count("id", volume.id)
      .Text("name", volume.name)
      .Count("sizeBytes", volume.size_bytes)
      .Time("createdUnixMs", volume.created_unix_ms)
      .Count("pool", volume.pool)
      .Flag("thick", volume.thick)
      .Count("blockBytes", volume.block_bytes)
      .Count("mappedTracks", volume.mapped_tracks)
      .Count("attached", volume.attached)
      .Count("readOps", volume.read_ops)
      .Count("readBytes", volume.read_bytes)
      .Count("writeOps", volume.write_ops)
      .Count("writeBytes", volume.write_bytes)
      .Count("flushOps", volume.flush_ops)
      .Count("trimOps", volume.trim_ops)
      .Count("zeroOps", volume.zero_ops)
      .Count("errorOps", volume.error_ops)
      .Count("redirectedTracks", volume.redirected_tracks)
      .Time("frozenUntilUnixMs", volume.frozen_until_unix_ms)
      .Flag("hostWritten", volume.host_written)
      .Flag("writeInhibited", volume.write_inhibited)
      .Done();
}

Napi::Value ToJs(Napi::Env env, const RelationshipInfo& relationship) {
  ObjectBuilder object(env);
  for (const auto& [name, flag] : kRelationshipFlags)
    object.Flag(name, (relationship.flags & flag) != 0);
  return object.Count("id", relationship.id)
      .Count("sourceId", relationship.source_id)
      .Count("targetId", relationship.target_id)
      .Flag("sourceReplaced", (relationship.flags & kRelSourceReplaced) != 0)
      .Count("pendingTracks", relationship.pending_tracks)
      .Time("t0UnixMs", relationship.t0_unix_ms)
      .Count("outOfSyncTracks", relationship.out_of_sync_tracks)
      .Count("totalTracks", relationship.total_tracks)
      .Count("copiedTracks", relationship.copied_tracks)
      .Done();
}

Napi::Value ToJs(Napi::Env env, const RecordingInfo& recording) {
  return ObjectBuilder(env)
      .Count("relationshipId", recording.relationship)
      .Count("sourceId", recording.source_id)
      .Count("targetId", recording.target_id)
      .Done();
}

Napi::Value ToJs(Napi::Env env, const CopyBatchResult& batch) {
  return ObjectBuilder(env)
      .Count("copiedTracks", batch.copied_tracks)
      .Count("nextTrack", batch.next_track)
      .Flag("done", batch.done)
      .Done();
}

Napi::Value ToJs(Napi::Env env, const VerifyMismatch& mismatch) {
  return ObjectBuilder(env)
      .Count("track", mismatch.track)
      .Count("physicalTrack", mismatch.physical)
      .Count("fileOffset", mismatch.offset_bytes)
      .List("sharedWith", mismatch.shared)
      .Done();
}

Napi::Value ToJs(Napi::Env env, const VerifyIoError& error) {
  return ObjectBuilder(env).Count("track", error.track).Text("message", error.message).Done();
}

Napi::Value ToJs(Napi::Env env, const VerifyBatchResult& batch) {
  return ObjectBuilder(env)
      .Count("verified", batch.verified)
      .Count("sealed", batch.sealed)
      .Count("readOnly", batch.read_only)
      .Count("readBytes", batch.read_bytes)
      .List("mismatches", batch.mismatched)
      .List("ioErrors", batch.io_errors)
      .Count("nextTrack", batch.next_track)
      .Flag("done", batch.done)
      .Done();
}

Napi::Value ToJs(Napi::Env env, const StoreInfo& store) {
  return ObjectBuilder(env)
      .Count("capacityTracks", store.capacity_tracks)
      .Count("usedTracks", store.used_tracks)
      .Count("commits", store.commits)
      .Count("checkpoints", store.checkpoints)
      .Count("flushes", store.flushes)
      .Count("trimmedTracks", store.trimmed_tracks)
      .Count("writeOutWaits", store.write_out_waits)
      .Flag("recoveredUnclean", store.recovered_unclean)
      .Count("recoveredRecords", store.recovered_records)
      .Count("sealedTracks", store.sealed_tracks)
      .Count("verifyMismatches", store.verify_mismatches)
      .Text("poisoned", store.poisoned)
      .Flag("direct", store.direct)
      .Text("ioBackend", store.io_backend)
      .Text("ioNote", store.io_note)
      .Flag("created", store.created)
      .Text("mirrorPath", store.mirror_path)
      .Text("mirrorProblem", store.mirror_problem)
      .Text("healedCopy", store.healed_copy)
      .Count("expiredFreezes", store.expired_freezes)
      .Done();
}

Napi::Value ToJs(Napi::Env env, const Finding& finding) {
  return ObjectBuilder(env)
      .Text("severity", SeverityName(finding.severity))
      .Text("file", finding.file)
      .Text("place", finding.place)
      .Text("text", finding.text)
      .Done();
}

Napi::Value ToJs(Napi::Env env, const PoolReport& report) {
  ObjectBuilder found(env);
  for (size_t i = 0; i < kSeverities; ++i)
    found.Count(SeverityName(static_cast<Severity>(i)), report.found[i]);
  return ObjectBuilder(env)
      .Text("verdict", VerdictName(report.verdict))
      .Value("findings", ToJs(env, report.findings))
      .Value("found", found.Done())
      .Text("poolUuid", report.pool_uuid)
      .Text("mirrorPath", report.mirror_path)
      .Flag("closedInOrder", report.closed_in_order)
      .Count("generation", report.generation)
      .Count("superblockCopies", report.superblock_copies)
      .Count("currentLsn", report.current_lsn)
      .Count("previousLsn", report.previous_lsn)
      .Count("usedPages", report.used_pages)
      .Count("areaPages", report.area_pages)
      .Count("journalBlocks", report.journal_blocks)
      .Count("groups", report.groups)
      .Count("records", report.records)
      .Count("ringRecords", report.ring_records)
      .Count("lastLsn", report.last_lsn)
      .Count("volumes", report.volumes)
      .Count("relationships", report.relationships)
      .Count("mappedTracks", report.mapped_tracks)
      .Count("usedTracks", report.used_tracks)
      .Count("capacityTracks", report.capacity_tracks)
      .Count("tracksBytes", report.tracks_bytes)
      .Count("neededBytes", report.needed_bytes)
      .Done();
}

Napi::Value ToJs(Napi::Env env, const PoolInfo& pool) {
  return ObjectBuilder(env)
      .Count("number", pool.number)
      .Text("name", pool.name)
      .Text("path", pool.path)
      .Count("capacityTracks", pool.capacity_tracks)
      .Count("usedTracks", pool.used_tracks)
      .Count("readyTracks", pool.ready_tracks)
      .Count("claimedTracks", pool.claimed_tracks)
      .Count("availableTracks", pool.available_tracks)
      .Text("growthError", pool.growth_error)
      .Done();
}

}  // namespace flashlun::binding
