#include "core/status.h"

#include <cstdio>

namespace flashlun {

const char* CodeName(Code code) {
  switch (code) {
    case Code::kOk:
      return "OK";
    case Code::kWouldBlock:
      return "WOULD_BLOCK";
    case Code::kInvalid:
      return "INVALID";
    case Code::kNotFound:
      return "NOT_FOUND";
    case Code::kExists:
      return "EXISTS";
    case Code::kBusy:
      return "BUSY";
    case Code::kLimit:
      return "LIMIT";
    case Code::kNoSpace:
      return "NO_SPACE";
    case Code::kLocked:
      return "LOCKED";
    case Code::kCorrupt:
      return "CORRUPT";
    case Code::kIo:
      return "IO";
    case Code::kPoisoned:
      return "POISONED";
    case Code::kTimeout:
      return "TIMEOUT";
    case Code::kClosed:
      return "CLOSED";
  }
  return "UNKNOWN";
}

std::string VolumeIdText(uint16_t id) {
  char text[8];
  std::snprintf(text, sizeof text, "%04X", id);
  return text;
}

}  // namespace flashlun
