// Status and Result: how native code reports errors. No exceptions cross native/core.
//
// A Status is one code and an optional message. OK costs a byte compare and no allocation, so the
// request path can return it by value. The message says what, why and what to do; it is shown to
// people unchanged.
//
// Thread safety: a Status is a value; sharing one object between threads needs outside
// synchronization.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>

namespace flashlun {

// Mirrored by `NativeCode` in src/engine/native.ts; a test compares the two lists.
enum class Code : unsigned char {
  kOk,
  kWouldBlock,  // ReadMode::kNoWait: the data is not in the page cache; call again with kBlocking
  kInvalid,     // argument out of range
  kNotFound,    // no such volume or relationship
  kExists,      // the id is taken
  kBusy,        // in use: attached, or in a relationship
  kLimit,       // a limit of limits.h
  kNoSpace,     // the pool or its file system is full; nothing was changed
  kLocked,      // another process holds the pool
  kCorrupt,     // damage on disk; nothing was changed
  kIo,          // the operating system refused an I/O
  kPoisoned,    // an earlier journal or flush error stopped the pool (trap T12); reopen it
  kTimeout,     // gates did not close in time; nothing was changed
  kClosed,      // the store is closing
};

// The stable name of a code ("NO_SPACE"), used as `error.code` in JavaScript.
const char* CodeName(Code code);

// A volume in a message: "1203".
std::string VolumeIdText(uint16_t id);

class [[nodiscard]] Status {
 public:
  Status() = default;
  explicit Status(Code code) : code_(code) {}
  Status(Code code, std::string message)
      : code_(code), message_(std::make_unique<std::string>(std::move(message))) {}
  static Status Ok() { return Status(); }

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  // The message, or the code's name when none was given.
  std::string message() const { return message_ ? *message_ : std::string(CodeName(code_)); }

 private:
  Code code_ = Code::kOk;
  std::unique_ptr<std::string> message_;
};

// A value or the Status that says why there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}
  Result(Status status) : state_(std::move(status)) {}
  bool ok() const { return std::holds_alternative<T>(state_); }
  T& value() { return std::get<T>(state_); }
  Status TakeStatus() { return ok() ? Status::Ok() : std::move(std::get<Status>(state_)); }
  const Status& status() const { return std::get<Status>(state_); }

 private:
  std::variant<T, Status> state_;
};

}  // namespace flashlun
