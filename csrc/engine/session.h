// Session: one sequence with its own KV cache; Generation: one run of the token loop over it.
// A session has a single owner: calls on it are serialised by the caller, except cancel(). Depends on engine.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "decode/sampler.h"
#include "decode/stop.h"
#include "engine/engine.h"
#include "tokenizer/stream_decoder.h"

namespace tandem {

// Counters of one session since it was made. Seconds are wall clock.
struct Stats {
  int64_t prefill_tokens = 0;
  double prefill_seconds = 0;
  int64_t decode_tokens = 0;
  double decode_seconds = 0;  // model and sampling, from a token's request to its return
  double sample_seconds = 0;
  double time_to_first_token = 0;  // of the newest generation: from its start
};

class Session {
 public:
  Session(std::shared_ptr<Engine> engine, std::unique_ptr<TargetCache> cache) : engine_(std::move(engine)), cache_(std::move(cache)) {}

  // Number of tokens in the sequence.
  int64_t position() const { return static_cast<int64_t>(tokens_.size()); }

  // Appends ids. kContextLength or kInvalidRequest leave the session as it was; kCancelled keeps the part that was done.
  Status prefill(std::span<const int32_t> ids);

  // Appends ids and writes the logits that follow each, float32 [ids.size(), vocab_size], to `out`.
  Status logits(std::span<const int32_t> ids, float* out);

  // Forgets everything from `position` on (0 <= position <= position()).
  Status rewind(int64_t position);

  // Stops the running or the next call at its next step; safe from any thread.
  void cancel() { cancelled_ = true; }

  const Stats& stats() const { return stats_; }
  Engine& engine() const { return *engine_; }

 private:
  friend class Generation;

  Status check(std::span<const int32_t> ids) const;
  // Brings the cache up to `until` tokens.
  Status catch_up(int64_t until);
  // Logits after the last token, computed by running it (again, if it was already in the cache).
  Status last_logits(std::vector<float>& out);

  std::shared_ptr<Engine> engine_;
  std::unique_ptr<TargetCache> cache_;
  std::vector<int32_t> tokens_;
  int64_t cached_ = 0;  // tokens_[0, cached_) have their KV; the newest token usually waits for its decode step
  std::atomic<bool> cancelled_ = false;
  Stats stats_;
};

enum class FinishReason { kNone, kStop, kLength, kContext, kCancelled };
const char* finish_reason_name(FinishReason reason);

// One token of a generation. `text` is the UTF-8 that became final with it (empty while a character or a possible stop
// string is incomplete). `logprob`: natural logarithm of its probability under the model, NaN unless asked for.
struct Token {
  int32_t id = 0;
  std::string text;
  float logprob = 0;
  bool from_draft = false;
};

// The token loop. A stop token ends it and is its last token, so that the sequence reads as the model wrote it; a stop
// string ends it and is not part of any text.
class Generation {
 public:
  static Result<std::unique_ptr<Generation>> create(Session& session, const SamplingParams& params);

  // The next token; nothing after the end. After an error the session still holds every token that was returned.
  Result<std::optional<Token>> next();
  FinishReason finish_reason() const { return finish_; }

 private:
  Generation(Session& session, const SamplingParams& params);

  Session& session_;
  SamplingParams params_;
  Sampler sampler_;
  StreamDecoder decoder_;
  StopMatcher stop_;
  std::vector<float> logits_;
  int64_t produced_ = 0;
  FinishReason finish_ = FinishReason::kNone;
};

}  // namespace tandem
