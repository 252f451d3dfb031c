// Lists that leave through a buffer of the caller. Depends on capi/error.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>

#include "capi/error.h"

namespace tandem::capi {

// Copies `from` and what ends it to a buffer of the caller, or only tells the size.
template <class T>
tandem_status give(const T* from, std::size_t count, std::size_t terminator, T* buffer, std::size_t capacity,
                   std::size_t* size) {
  if (size != nullptr) *size = count;
  if (buffer == nullptr && capacity == 0) {
    return size != nullptr ? TANDEM_OK : fail(TANDEM_INVALID_REQUEST, "neither a buffer nor a place for its size");
  }
  if (buffer == nullptr) return fail(TANDEM_INVALID_REQUEST, "the buffer is NULL but its capacity is not 0");
  if (capacity < count + terminator) {
    return fail(TANDEM_BUFFER_TOO_SMALL, "the buffer holds " + std::to_string(capacity) + " but " +
                                             std::to_string(count + terminator) + " are needed");
  }
  std::copy_n(from, count, buffer);
  std::fill_n(buffer + count, terminator, T{});
  return TANDEM_OK;
}

}  // namespace tandem::capi
