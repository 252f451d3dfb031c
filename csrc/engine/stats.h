// Counters of a session, and of all sessions of an engine together.
#pragma once

#include <cstdint>
#include <vector>

namespace tandem {

// Seconds are wall clock.
struct Stats {
  int64_t prefill_tokens = 0;  // that were computed
  int64_t reused_tokens = 0;   // that the prefix cache had
  double prefill_seconds = 0;
  int64_t decode_tokens = 0;
  double decode_seconds = 0;  // model and sampling, from a token's request to its return
  double sample_seconds = 0;
  double time_to_first_token = 0;  // of the newest generation: from its start

  // Speculative decoding.
  int64_t verify_steps = 0;  // rounds: steps of the target that had drafts to check
  int64_t drafted = 0;
  int64_t accepted = 0;
  std::vector<int64_t> accepted_by_position;  // of first drafts, second drafts, ...
  std::vector<int64_t> depths;                // rounds with 0, 1, 2, ... drafts
  double draft_seconds = 0;
  double verify_seconds = 0;  // of the steps that had drafts

  // Images and pieces of sound, of an engine only: no session makes them.
  int64_t media_embedded = 0;
  int64_t media_reused = 0;  // they were remembered

  // Steps with logits, of an engine only: one may hold rows of several sessions.
  int64_t steps = 0;
  int64_t step_rows = 0;
  std::vector<int64_t> batch_sizes;  // steps with 0, 1, 2, ... sessions
};

// Adds what happened between `before` and `after`, two readings of one session's counters, to `total`. The time to the
// first token is taken over, not added.
void add_difference(Stats& total, const Stats& after, const Stats& before);

}  // namespace tandem
