#include "engine/stats.h"

#include <cstddef>

namespace tandem {
namespace {

void add_difference(std::vector<int64_t>& total, const std::vector<int64_t>& after,
                    const std::vector<int64_t>& before) {
  if (total.size() < after.size()) total.resize(after.size());
  for (std::size_t i = 0; i < after.size(); ++i) total[i] += after[i] - (i < before.size() ? before[i] : 0);
}

}  // namespace

void add_difference(Stats& total, const Stats& after, const Stats& before) {
  total.prefill_tokens += after.prefill_tokens - before.prefill_tokens;
  total.reused_tokens += after.reused_tokens - before.reused_tokens;
  total.prefill_seconds += after.prefill_seconds - before.prefill_seconds;
  total.decode_tokens += after.decode_tokens - before.decode_tokens;
  total.decode_seconds += after.decode_seconds - before.decode_seconds;
  total.sample_seconds += after.sample_seconds - before.sample_seconds;
  total.time_to_first_token = after.time_to_first_token;
  total.verify_steps += after.verify_steps - before.verify_steps;
  total.drafted += after.drafted - before.drafted;
  total.accepted += after.accepted - before.accepted;
  add_difference(total.accepted_by_position, after.accepted_by_position, before.accepted_by_position);
  add_difference(total.depths, after.depths, before.depths);
  total.draft_seconds += after.draft_seconds - before.draft_seconds;
  total.verify_seconds += after.verify_seconds - before.verify_seconds;
  total.media_embedded += after.media_embedded - before.media_embedded;
  total.media_reused += after.media_reused - before.media_reused;
}

}  // namespace tandem
