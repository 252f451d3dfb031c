// From logits to the next token: penalties, temperature, top-k, top-p, min-p, in the order of transformers.
// One Sampler serves one sequence; it keeps the history that the penalties need and the state of its generator.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/status.h"

namespace tandem {

inline constexpr int kMaxDraftTokens = 15;  // with the token before them: a step of 16

// What the caller asks of a generation. A plain record; validate() says whether it makes sense.
struct SamplingParams {
  float temperature = 0.0f;         // 0 (or below 1e-5) = greedy: the most likely token, always
  int top_k = 0;                    // 0 = off; larger than the vocabulary = off
  float top_p = 1.0f;               // (0, 1]; 1 = off
  float min_p = 0.0f;               // [0, 1]; tokens below min_p * (probability of the best) are dropped
  float repetition_penalty = 1.0f;  // > 0; over prompt and generated tokens; 1 = off
  float presence_penalty = 0.0f;    // over generated tokens, once per distinct token
  float frequency_penalty = 0.0f;   // over generated tokens, per occurrence
  uint64_t seed = 0;                // equal seeds and equal logits give equal tokens
  int64_t max_tokens = 256;         // at least 1
  // What happens when the context is full: -1 ends the generation; otherwise this many tokens at the beginning stay,
  // with the newest half of the rest, and it goes on.
  int64_t pinned_tokens = -1;
  bool logprobs = false;  // fill Choice::logprob (costs one pass over the logits)
  std::vector<int32_t> stop_ids;
  std::vector<std::string> stop_strings;
  std::vector<int32_t> suppress_ids;  // never generated, also when greedy
  std::string drafter = "auto";       // "auto": where it pays; "on": always; "off"
  int draft_tokens = 0;               // per round; 0: as many as pay
  // For benchmarks, where no trained drafter exists: the chance that draft 1, 2, ... is accepted when all before it
  // were, 0 beyond the list. Empty: drafts are judged by the model. The text is not the model's then.
  std::vector<float> simulate_acceptance;
};

// kInvalidRequest with the name of the field and the accepted range, or ok.
Status validate(const SamplingParams& params, int64_t vocab_size);

class Sampler {
 public:
  struct Choice {
    int32_t id = -1;
    float logprob =
        0.0f;  // log softmax of the model's own logits (suppressed tokens removed); NaN unless logprobs was asked
  };

  // `params` must have passed validate() for this vocabulary.
  Sampler(const SamplingParams& params, int64_t vocab_size);

  // Draws the next token. `logits` has vocab_size entries and is not changed; -inf means "not allowed".
  // NaN or +inf in the logits is kBackend; no token left to choose from is kInvalidRequest.
  Result<Choice> sample(std::span<const float> logits);

  // Writes the probabilities that sample() would draw from now (one-hot when greedy). Advances nothing.
  Status distribution(std::span<const float> logits, std::span<float> out);

  // Tells the penalties which tokens the sequence holds. sample() does not accept its own choice: a verifier may reject
  // it.
  void accept(int32_t id);
  void accept_prompt(std::span<const int32_t> ids);

  const SamplingParams& params() const { return params_; }

 private:
  struct Kept {
    float score;  // after penalties, before temperature
    int32_t id;
    double weight;  // unnormalised probability
  };
  struct Seen {
    bool in_prompt = false;
    int32_t generated = 0;
  };

  bool greedy() const { return params_.temperature < 1e-5f; }
  bool penalised() const;
  bool suppressed(int32_t id) const;
  Result<std::span<const float>> adjust(std::span<const float> logits);  // penalties, in scratch_ where there are any
  Status scan(std::span<const float> scores);                            // fills block_max_ and best_
  int32_t best_id(std::span<const float> scores) const;
  void collect(std::span<const float> scores, float threshold);  // kept_ = allowed tokens with score >= threshold
  void collect_top(std::span<const float> scores, size_t k);     // kept_ = the k best, sorted
  double weight_sum(std::span<const float> scores, float inverse_temperature) const;
  void weigh();
  void select(std::span<const float> scores);  // kept_ = what may be drawn, with weights
  double uniform();
  Result<float> logprob(std::span<const float> logits, int32_t id);

  SamplingParams params_;
  size_t vocab_;
  std::vector<int32_t> suppress_;     // sorted, unique
  std::vector<uint8_t> block_dirty_;  // block holds a suppressed token: take the slow loop there
  std::vector<float> block_max_;
  float best_ = 0.0f;
  std::vector<float> scratch_;
  std::vector<Kept> kept_;
  std::unordered_map<int32_t, Seen> history_;
  uint64_t draws_ = 0;
};

}  // namespace tandem
