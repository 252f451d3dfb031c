// How a failure leaves the C ABI: its number is returned, its words are kept for the calling thread. Every entry point
// runs its body in guarded(). Depends on base.
#pragma once

#include <new>
#include <string>
#include <utility>

#include "base/status.h"
#include "tandem/tandem.h"

namespace tandem::capi {

// Keeps the words for tandem_last_error() and returns the number. Without memory for the words others stand for them.
tandem_status fail(tandem_status status, const std::string& message) noexcept;
tandem_status fail(tandem_status status, const char* message) noexcept;

inline tandem_status to_status(const Status& status) {
  return status.ok() ? TANDEM_OK : fail(static_cast<tandem_status>(status.code()), status.message());
}

// Runs `body`, which returns a tandem_status. No exception passes: the standard library's out of memory, or what left a
// callback.
template <class Body>
tandem_status guarded(const Body& body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return fail(TANDEM_OUT_OF_MEMORY, "out of memory: close sessions, or use a smaller context");
  } catch (...) {
    return fail(TANDEM_INTERNAL, "an exception left a callback, or libtandem has a defect");
  }
}

}  // namespace tandem::capi

// Returns a failure to C from a function that returns tandem_status.
#define TANDEM_C_RETURN_IF_ERROR(expression)                                              \
  do {                                                                                    \
    if (const ::tandem::Status tandem_c_status_ = (expression); !tandem_c_status_.ok()) { \
      return ::tandem::capi::to_status(tandem_c_status_);                                 \
    }                                                                                     \
  } while (false)
