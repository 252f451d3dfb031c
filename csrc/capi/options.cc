#include "capi/options.h"

#include <dlfcn.h>
#include <link.h>

#include <cstdlib>
#include <filesystem>

namespace tandem::capi {
namespace {

constexpr std::size_t kMaxStructBytes = 4096;  // of any version to come
constexpr int64_t kMaxThreads = 1024;
constexpr uint64_t kPrefixBytes = uint64_t{1} << 30;  // where only the folder of the prefix cache is named
constexpr std::size_t kMaxItems = kMaxContextTokens;  // of a list; the longest sequence
constexpr const char* kLitertFile = "libLiteRt.so";

std::string string_or(const char* text, const char* otherwise) { return text != nullptr ? text : otherwise; }

// The variable's value; empty when it is not set.
std::string variable(const char* name) { return string_or(std::getenv(name), ""); }

// The path of libLiteRt.so as the dynamic linker finds it; just its name where it cannot: the error then comes from the
// attempt to open it. The handle stays open, as the library does anyway.
std::string find_litert() {
  if (std::string named = variable("TANDEM_LITERT_LIBRARY"); !named.empty()) return named;
  void* handle = dlopen(kLitertFile, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return kLitertFile;
#if defined(__GLIBC__)
  struct link_map* map = nullptr;
  if (dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && map->l_name[0] != '\0') return map->l_name;
#endif
  return kLitertFile;
}

// As the Python package: $TANDEM_CACHE_DIR, else $XDG_CACHE_HOME/tandem or ~/.cache/tandem; empty (memory) without a
// home folder.
std::string default_cache_dir() {
  if (std::string named = variable("TANDEM_CACHE_DIR"); !named.empty()) return named;
  if (const std::string base = variable("XDG_CACHE_HOME"); std::filesystem::path(base).is_absolute()) {
    return base + "/tandem";
  }
  const std::string home = variable("HOME");
  return home.empty() ? "" : home + "/.cache/tandem";
}

template <class T>
Status check_list(const T* items, std::size_t count, const char* name) {
  if (items == nullptr && count > 0) {
    return {Code::kInvalidRequest, std::string(name) + " is NULL but its count is " + std::to_string(count)};
  }
  if (count > kMaxItems) {
    return {Code::kInvalidRequest, "the count of " + std::string(name) + " is " + std::to_string(count) + "; at most " +
                                       std::to_string(kMaxItems) + " are taken"};
  }
  return {};
}

float or_off(float value) { return value == 0.0f ? 1.0f : value; }

}  // namespace

Status check_size(std::size_t size, std::size_t known, const char* name) {
  if (size > sizeof(std::size_t) && size <= kMaxStructBytes) return {};
  return {Code::kInvalidRequest, std::string(name) + ".size is " + std::to_string(size) + "; set it to sizeof(" + name +
                                     "), which is " + std::to_string(known) + " in this version"};
}

Status check_ids(const int32_t* ids, std::size_t count) { return check_list(ids, count, "ids"); }

Result<EngineOptions> engine_options(const tandem_engine_options* options) {
  tandem_engine_options given;
  TANDEM_RETURN_IF_ERROR(read_struct(options, "tandem_engine_options", &given));
  if (given.num_threads < 0 || given.num_threads > kMaxThreads) {
    return Status(Code::kInvalidRequest, "num_threads is " + std::to_string(given.num_threads) + "; give 1 to " +
                                             std::to_string(kMaxThreads) + ", or 0 for the physical cores");
  }
  EngineOptions out;
  out.library_path = given.litert_library != nullptr ? given.litert_library : find_litert();
  if (out.library_path.empty()) {
    return Status(Code::kInvalidRequest, "litert_library is empty; give the path of libLiteRt.so, or NULL");
  }
  out.gpu_library_path = given.gpu_library != nullptr ? given.gpu_library : variable("TANDEM_GPU_LIBRARY");
  out.num_threads = static_cast<int>(given.num_threads);
  out.max_context = given.max_context;
  out.cache_dir = given.cache_dir != nullptr ? given.cache_dir : default_cache_dir();
  out.kv_dtype = string_or(given.kv_dtype, "f16");
  out.graph = string_or(given.graph, "auto");
  out.drafter = string_or(given.drafter, "auto");
  out.backend = string_or(given.backend, "cpu");
  if (const std::string named = variable("TANDEM_GPU"); out.backend == "gpu" && !named.empty()) {
    out.backend = "gpu:" + named;
  }
  out.fallback = string_or(given.fallback, "none");
  out.prefix_cache_dir = string_or(given.prefix_cache_dir, "");
  out.prefix_cache_bytes = given.prefix_cache_bytes;
  if (out.prefix_cache_bytes == 0 && !out.prefix_cache_dir.empty()) out.prefix_cache_bytes = kPrefixBytes;
  return out;
}

Result<SamplingParams> sampling_params(const tandem_sampling* sampling, const Manifest& manifest) {
  tandem_sampling given;
  TANDEM_RETURN_IF_ERROR(read_struct(sampling, "tandem_sampling", &given));
  TANDEM_RETURN_IF_ERROR(check_list(given.stop_ids, given.num_stop_ids, "stop_ids"));
  TANDEM_RETURN_IF_ERROR(check_list(given.stop_strings, given.num_stop_strings, "stop_strings"));
  TANDEM_RETURN_IF_ERROR(check_list(given.suppress_ids, given.num_suppress_ids, "suppress_ids"));
  TANDEM_RETURN_IF_ERROR(check_timeout(given.timeout_seconds, "timeout_seconds"));
  if (given.pinned_tokens < 0 || given.pinned_tokens > kMaxContextTokens) {
    return Status(Code::kInvalidRequest,
                  "pinned_tokens is " + std::to_string(given.pinned_tokens) + "; give 0 to the context");
  }
  if (given.pinned_tokens > 0 && given.slide == 0) {
    return Status(Code::kInvalidRequest, "pinned_tokens is set but slide is 0; set slide to 1");
  }
  if (given.draft_tokens < 0 || given.draft_tokens > kMaxDraftTokens) {
    return Status(Code::kInvalidRequest, "draft_tokens is " + std::to_string(given.draft_tokens) + "; give 1 to " +
                                             std::to_string(kMaxDraftTokens) + ", or 0 for as many as pay");
  }
  SamplingParams out;
  out.temperature = given.temperature;
  out.top_k = given.top_k;
  out.top_p = or_off(given.top_p);
  out.min_p = given.min_p;
  out.repetition_penalty = or_off(given.repetition_penalty);
  out.presence_penalty = given.presence_penalty;
  out.frequency_penalty = given.frequency_penalty;
  out.seed = given.seed;
  if (given.max_tokens != 0) out.max_tokens = given.max_tokens;
  out.logprobs = given.logprobs != 0;
  if (given.stop_ids == nullptr) {
    out.stop_ids = manifest.tokens.eos;
  } else {
    out.stop_ids.assign(given.stop_ids, given.stop_ids + given.num_stop_ids);
  }
  for (std::size_t i = 0; i < given.num_stop_strings; ++i) {
    if (given.stop_strings[i] == nullptr) {
      return Status(Code::kInvalidRequest, "stop_strings[" + std::to_string(i) + "] is NULL; give a string");
    }
    out.stop_strings.emplace_back(given.stop_strings[i]);
  }
  out.suppress_ids = manifest.tokens.suppress;
  if (given.num_suppress_ids > 0) {
    out.suppress_ids.insert(out.suppress_ids.end(), given.suppress_ids, given.suppress_ids + given.num_suppress_ids);
  }
  if (given.slide != 0) out.pinned_tokens = given.pinned_tokens;
  out.drafter = string_or(given.drafter, "auto");
  out.draft_tokens = static_cast<int>(given.draft_tokens);
  return out;
}

Status check_timeout(double seconds, const char* name) {
  if (seconds >= 0) return {};  // not so for NaN
  return {Code::kInvalidRequest, std::string(name) + " must be 0 (none) or positive"};
}

Deadline sampling_deadline(const tandem_sampling* sampling) {
  tandem_sampling given;
  const Status status = read_struct(sampling, "tandem_sampling", &given);
  return status.ok() ? deadline_after(given.timeout_seconds) : kNoDeadline;
}

tandem_stats stats_struct(const Stats& stats) {
  static_assert(TANDEM_MAX_DRAFT_TOKENS == kMaxDraftTokens, "tandem.h has arrays of that size");
  tandem_stats out{};
  out.prefill_tokens = stats.prefill_tokens;
  out.decode_tokens = stats.decode_tokens;
  out.prefill_seconds = stats.prefill_seconds;
  out.decode_seconds = stats.decode_seconds;
  out.sample_seconds = stats.sample_seconds;
  out.time_to_first_token = stats.time_to_first_token;
  out.verify_steps = stats.verify_steps;
  out.drafted = stats.drafted;
  out.accepted = stats.accepted;
  out.draft_seconds = stats.draft_seconds;
  out.verify_seconds = stats.verify_seconds;
  const auto copy = [](const std::vector<int64_t>& from, auto& to, std::size_t first) {
    std::copy_n(from.begin(), std::min(from.size(), std::size(to) - first), to + first);
  };
  copy(stats.accepted_by_position, out.accepted_by_position, 1);  // number 1 is the first draft
  copy(stats.depths, out.depths, 0);
  out.media_embedded = stats.media_embedded;
  out.media_reused = stats.media_reused;
  out.reused_tokens = stats.reused_tokens;
  out.steps = stats.steps;
  out.step_rows = stats.step_rows;
  return out;
}

tandem_prefix_stats prefix_stats_struct(const PrefixStore::Stats& stats) {
  tandem_prefix_stats out{};
  out.lookups = stats.lookups;
  out.hits = stats.hits;
  out.disk_hits = stats.disk_hits;
  out.tokens_asked = stats.tokens_asked;
  out.tokens_reused = stats.tokens_reused;
  out.entries = stats.entries;
  out.evictions = stats.evictions;
  out.disk_entries = stats.disk_entries;
  out.bytes = stats.bytes;
  out.disk_bytes = stats.disk_bytes;
  out.budget = stats.budget;
  return out;
}

tandem_finish finish_number(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return TANDEM_FINISH_NONE;
    case FinishReason::kStop:
      return TANDEM_FINISH_STOP;
    case FinishReason::kLength:
      return TANDEM_FINISH_LENGTH;
    case FinishReason::kContext:
      return TANDEM_FINISH_CONTEXT;
    case FinishReason::kCancelled:
      return TANDEM_FINISH_CANCELLED;
    case FinishReason::kTimeout:
      return TANDEM_FINISH_TIMEOUT;
  }
  return TANDEM_FINISH_NONE;
}

}  // namespace tandem::capi
