// Size-stamped structs of the C ABI: read from, and written to, callers that were compiled with another version of
// tandem.h. Also the options in the core's own words. Depends on engine.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>

#include "base/status.h"
#include "engine/engine.h"
#include "engine/session.h"
#include "tandem/tandem.h"

namespace tandem::capi {

// kInvalidRequest for a size that no version of the struct `name` can have; this one's is `known`.
Status check_size(std::size_t size, std::size_t known, const char* name);

// The caller's struct, as far as it goes, over zeros. nullptr: all zeros. kInvalidRequest also for fields that this
// version does not know but the caller has set.
template <class T>
Status read_struct(const T* given, const char* name, T* out) {
  *out = T{};
  if (given == nullptr) return {};
  TANDEM_RETURN_IF_ERROR(check_size(given->size, sizeof(T), name));
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  if (given->size > sizeof(T) &&
      std::any_of(bytes + sizeof(T), bytes + given->size, [](unsigned char byte) { return byte != 0; })) {
    return {Code::kInvalidRequest, std::string(name) +
                                       " has a field set that libtandem " TANDEM_VERSION
                                       " does not know; use a newer library, or zero the struct before setting fields"};
  }
  std::memcpy(out, given, std::min(given->size, sizeof(T)));
  return {};
}

// kInvalidRequest unless `out` can be filled.
template <class T>
Status check_struct(const T* out, const char* name) {
  if (out == nullptr) return {Code::kInvalidRequest, std::string(name) + " is NULL; pass a struct to fill"};
  return check_size(out->size, sizeof(T), name);
}

// Fills a struct that passed check_struct(), as far as it goes; fields beyond this version become 0.
template <class T>
void write_struct(T value, T* out) {
  value.size = out->size;
  auto* bytes = reinterpret_cast<unsigned char*>(out);
  if (value.size > sizeof(T)) std::memset(bytes + sizeof(T), 0, value.size - sizeof(T));
  std::memcpy(bytes, &value, std::min(value.size, sizeof(T)));
}

// kInvalidRequest for a list of token ids that cannot be: none where some are told, or more than any context holds.
Status check_ids(const int32_t* ids, std::size_t count);

// `options` may be nullptr. Finds libLiteRt.so and the cache folder where they are left to the library.
Result<EngineOptions> engine_options(const tandem_engine_options* options);

// `sampling` may be nullptr. Completed by the model's own stop and suppressed tokens.
Result<SamplingParams> sampling_params(const tandem_sampling* sampling, const Manifest& manifest);

// kInvalidRequest for a time limit that is none: negative or not a number.
Status check_timeout(double seconds, const char* name);

// A time limit that check_timeout() accepts, from now on; 0: none.
inline Deadline deadline_after(double seconds) { return seconds > 0 ? deadline_in(seconds) : kNoDeadline; }

// Of a struct that sampling_params() accepts; counts from now.
Deadline sampling_deadline(const tandem_sampling* sampling);

tandem_stats stats_struct(const Stats& stats);
tandem_prefix_stats prefix_stats_struct(const PrefixStore::Stats& stats);
tandem_finish finish_number(FinishReason reason);

}  // namespace tandem::capi
