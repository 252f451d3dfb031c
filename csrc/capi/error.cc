#include "capi/error.h"

namespace tandem::capi {
namespace {

static_assert(TANDEM_INVALID_REQUEST == static_cast<int>(Code::kInvalidRequest));
static_assert(TANDEM_BUNDLE == static_cast<int>(Code::kBundle));
static_assert(TANDEM_CONTEXT_LENGTH == static_cast<int>(Code::kContextLength));
static_assert(TANDEM_OUT_OF_MEMORY == static_cast<int>(Code::kOutOfMemory));
static_assert(TANDEM_BACKEND == static_cast<int>(Code::kBackend));
static_assert(TANDEM_CANCELLED == static_cast<int>(Code::kCancelled));
static_assert(TANDEM_IO == static_cast<int>(Code::kIo));
static_assert(TANDEM_TIMED_OUT == static_cast<int>(Code::kTimeout));

struct LastError {
  std::string text;
  const char* shown = "";  // text's, or a literal
};

thread_local LastError last_error;

}  // namespace

tandem_status fail(tandem_status status, const char* message) noexcept {
  last_error.shown = message;
  return status;
}

tandem_status fail(tandem_status status, const std::string& message) noexcept {
  try {
    last_error.text = message;
    last_error.shown = last_error.text.c_str();
  } catch (...) {
    last_error.shown = "out of memory, also for the words of this error";
  }
  return status;
}

}  // namespace tandem::capi

extern "C" {

const char* tandem_last_error(void) { return tandem::capi::last_error.shown; }

const char* tandem_version(void) { return TANDEM_VERSION; }

const char* tandem_status_name(tandem_status status) {
  switch (status) {
    case TANDEM_OK:
      return "ok";
    case TANDEM_INVALID_REQUEST:
      return "invalid request";
    case TANDEM_BUNDLE:
      return "bad bundle";
    case TANDEM_CONTEXT_LENGTH:
      return "context length";
    case TANDEM_OUT_OF_MEMORY:
      return "out of memory";
    case TANDEM_BACKEND:
      return "backend";
    case TANDEM_CANCELLED:
      return "cancelled";
    case TANDEM_IO:
      return "input or output";
    case TANDEM_BUSY:
      return "busy";
    case TANDEM_BAD_HANDLE:
      return "bad handle";
    case TANDEM_BUFFER_TOO_SMALL:
      return "buffer too small";
    case TANDEM_INTERNAL:
      return "internal";
    case TANDEM_TIMED_OUT:
      return "timed out";
    default:
      return "unknown status";
  }
}

}  // extern "C"
