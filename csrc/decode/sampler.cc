// The vocabulary is cut into blocks whose maxima are computed in one vectorisable pass. Everything after that looks
// only into the blocks that matter: the k-th largest block maximum bounds the k-th largest score from below, so top-k
// and top-p never sort, or even read again, the bulk of a 262,144-entry vocabulary.
#include "decode/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace tandem {
namespace {

constexpr size_t kBlock = 128;
constexpr size_t kLanes =
    16;  // independent accumulators: what lets the compiler use vector registers without -ffast-math
constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Tokens this many nats below the best weigh less than 4e-9 together, even if they are the whole vocabulary.
constexpr float kNegligible = 32.0f;

// exp(-x) for x >= 0 (1e-38 above 87), about 1 ulp of a float, in arithmetic that the compiler vectorises on every
// target: the clamp works on the bits because a float comparison would become a branch.
inline float exp_minus(float x) {
  const int32_t bits = std::bit_cast<int32_t>(x);
  constexpr int32_t kLimit = std::bit_cast<int32_t>(87.0f);
  const float clamped = -std::bit_cast<float>(bits < kLimit ? bits : kLimit);
  const float shifted =
      clamped * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the low mantissa bits become round(x / ln 2)
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const float scale = std::bit_cast<float>((std::bit_cast<int32_t>(shifted) << 23) + 0x3f800000);
  return p * scale;
}

// Maximum of a block; `bad` becomes nonzero when a value is NaN or +inf.
inline float block_maximum(const float* x, size_t n, uint32_t& bad) {
  float best[kLanes];
  uint32_t flags[kLanes] = {};
  std::fill_n(best, kLanes, -kInfinity);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) {
      const float value = x[i + j];
      best[j] = value > best[j] ? value : best[j];
      flags[j] |= value < kInfinity ? 0u : 1u;
    }
  }
  for (; i < n; ++i) {
    best[0] = x[i] > best[0] ? x[i] : best[0];
    flags[0] |= x[i] < kInfinity ? 0u : 1u;
  }
  for (size_t j = 1; j < kLanes; ++j) {
    best[0] = best[j] > best[0] ? best[j] : best[0];
    flags[0] |= flags[j];
  }
  bad |= flags[0];
  return best[0];
}

// Sum of exp((x - best) * inverse_temperature) over a block.
inline float block_weight(const float* x, size_t n, float best, float inverse_temperature) {
  float weight[kBlock] = {};
  for (size_t i = 0; i < n; ++i) weight[i] = exp_minus((best - x[i]) * inverse_temperature);
  for (size_t half = kBlock / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) weight[i] += weight[i + half];
  }
  return weight[0];
}

uint64_t mix(uint64_t x) {  // the finaliser of SplitMix64
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

Status bad_field(const std::string& field, const std::string& rule) {
  return Status(Code::kInvalidRequest, "sampling parameter " + field + " must be " + rule);
}

Status check_ids(const char* field, const std::vector<int32_t>& ids, int64_t vocab_size) {
  for (int32_t id : ids) {
    if (id < 0 || id >= vocab_size) {
      return Status(Code::kInvalidRequest, std::string("sampling parameter ") + field + " holds " + std::to_string(id) +
                                               ", which is not a token of this vocabulary (0 to " +
                                               std::to_string(vocab_size - 1) + ")");
    }
  }
  return Status();
}

}  // namespace

Status validate(const SamplingParams& params, int64_t vocab_size) {
  if (!(params.temperature >= 0.0f && params.temperature < kInfinity))
    return bad_field("temperature", "finite and >= 0");
  if (params.top_k < 0) return bad_field("top_k", ">= 0 (0 turns it off)");
  if (!(params.top_p > 0.0f && params.top_p <= 1.0f)) return bad_field("top_p", "above 0 and at most 1");
  if (!(params.min_p >= 0.0f && params.min_p <= 1.0f)) return bad_field("min_p", "between 0 and 1");
  if (!(params.repetition_penalty > 0.0f && params.repetition_penalty < kInfinity)) {
    return bad_field("repetition_penalty", "finite and above 0 (1 turns it off)");
  }
  if (!std::isfinite(params.presence_penalty)) return bad_field("presence_penalty", "finite");
  if (!std::isfinite(params.frequency_penalty)) return bad_field("frequency_penalty", "finite");
  if (params.max_tokens < 1) return bad_field("max_tokens", "at least 1");
  if (params.pinned_tokens < -1) return bad_field("pinned_tokens", "at least 0, or -1 (a full context is the end)");
  if (params.drafter != "auto" && params.drafter != "on" && params.drafter != "off") {
    return bad_field("drafter", "'auto', 'on' or 'off'");
  }
  for (const float chance : params.simulate_acceptance) {
    if (!(chance >= 0.0f && chance <= 1.0f)) return bad_field("simulate_acceptance", "chances between 0 and 1");
  }
  if (params.draft_tokens < 0 || params.draft_tokens > kMaxDraftTokens) {
    return bad_field("draft_tokens", "between 0 (as many as pay) and " + std::to_string(kMaxDraftTokens));
  }
  for (const std::string& stop : params.stop_strings) {
    if (stop.empty()) return bad_field("stop_strings", "a list of non-empty strings");
  }
  TANDEM_RETURN_IF_ERROR(check_ids("stop_ids", params.stop_ids, vocab_size));
  return check_ids("suppress_ids", params.suppress_ids, vocab_size);
}

Sampler::Sampler(const SamplingParams& params, int64_t vocab_size)
    : params_(params), vocab_(static_cast<size_t>(vocab_size)), suppress_(params.suppress_ids) {
  std::sort(suppress_.begin(), suppress_.end());
  suppress_.erase(std::unique(suppress_.begin(), suppress_.end()), suppress_.end());
  const size_t blocks = (vocab_ + kBlock - 1) / kBlock;
  block_max_.resize(blocks);
  block_dirty_.assign(blocks, 0);
  for (int32_t id : suppress_) {
    if (id >= 0 && static_cast<size_t>(id) < vocab_) block_dirty_[static_cast<size_t>(id) / kBlock] = 1;
  }
}

bool Sampler::penalised() const {
  return !history_.empty() &&
         (params_.repetition_penalty != 1.0f || params_.presence_penalty != 0.0f || params_.frequency_penalty != 0.0f);
}

bool Sampler::suppressed(int32_t id) const { return std::binary_search(suppress_.begin(), suppress_.end(), id); }

void Sampler::accept(int32_t id) { ++history_[id].generated; }

void Sampler::accept_prompt(std::span<const int32_t> ids) {
  for (int32_t id : ids) history_[id].in_prompt = true;
}

Result<std::span<const float>> Sampler::adjust(std::span<const float> logits) {
  if (logits.size() != vocab_) {
    return Status(Code::kInvalidRequest, "the sampler got " + std::to_string(logits.size()) +
                                             " logits for a vocabulary of " + std::to_string(vocab_) + " tokens");
  }
  if (!penalised()) return logits;
  scratch_.assign(logits.begin(), logits.end());
  for (const auto& [id, seen] : history_) {
    if (id < 0 || static_cast<size_t>(id) >= vocab_) continue;
    float& score = scratch_[static_cast<size_t>(id)];
    score = score > 0.0f ? score / params_.repetition_penalty : score * params_.repetition_penalty;
    if (seen.generated > 0) {
      score -= params_.presence_penalty + params_.frequency_penalty * static_cast<float>(seen.generated);
    }
  }
  return std::span<const float>(scratch_);
}

Status Sampler::scan(std::span<const float> scores) {
  uint32_t bad = 0;
  best_ = -kInfinity;
  for (size_t block = 0; block < block_max_.size(); ++block) {
    const size_t begin = block * kBlock, n = std::min(kBlock, vocab_ - begin);
    float maximum = block_maximum(scores.data() + begin, n, bad);
    if (block_dirty_[block]) {
      maximum = -kInfinity;
      for (size_t i = begin; i < begin + n; ++i) {
        if (!suppressed(static_cast<int32_t>(i))) maximum = std::max(maximum, scores[i]);
      }
    }
    block_max_[block] = maximum;
    best_ = std::max(best_, maximum);
  }
  if (bad) {
    return Status(Code::kBackend,
                  "the model returned NaN or infinite logits: the weights or the backend's arithmetic are damaged; run "
                  "`tandem verify` on the bundle");
  }
  if (best_ == -kInfinity) {
    return Status(Code::kInvalidRequest, "every token of the vocabulary is suppressed: nothing can be generated");
  }
  return Status();
}

int32_t Sampler::best_id(std::span<const float> scores) const {
  const size_t block = static_cast<size_t>(std::find(block_max_.begin(), block_max_.end(), best_) - block_max_.begin());
  size_t i = block * kBlock;
  while (scores[i] != best_ || (block_dirty_[block] && suppressed(static_cast<int32_t>(i)))) ++i;
  return static_cast<int32_t>(i);
}

void Sampler::collect(std::span<const float> scores, float threshold) {
  kept_.clear();
  for (size_t block = 0; block < block_max_.size(); ++block) {
    if (block_max_[block] < threshold || block_max_[block] == -kInfinity) continue;
    const size_t begin = block * kBlock, end = std::min(begin + kBlock, vocab_);
    for (size_t i = begin; i < end; ++i) {
      if (scores[i] < threshold || scores[i] == -kInfinity) continue;
      if (block_dirty_[block] && suppressed(static_cast<int32_t>(i))) continue;
      kept_.push_back({scores[i], static_cast<int32_t>(i), 0.0});
    }
  }
}

void Sampler::collect_top(std::span<const float> scores, size_t k) {
  float threshold = -kInfinity;
  if (k < block_max_.size()) {
    std::vector<float> order(block_max_);
    std::nth_element(order.begin(), order.begin() + static_cast<ptrdiff_t>(k - 1), order.end(), std::greater<float>());
    threshold = order[k - 1];
  }
  collect(scores, threshold);
  // Ties go to the lower id, so that the order, and with it a seeded draw, does not depend on the library's sort.
  const auto before = [](const Kept& a, const Kept& b) { return a.score != b.score ? a.score > b.score : a.id < b.id; };
  if (k < kept_.size()) {
    std::nth_element(kept_.begin(), kept_.begin() + static_cast<ptrdiff_t>(k), kept_.end(), before);
    kept_.resize(k);
  }
  std::sort(kept_.begin(), kept_.end(), before);
}

double Sampler::weight_sum(std::span<const float> scores, float inverse_temperature) const {
  double total = 0.0;
  for (size_t block = 0; block < block_max_.size(); ++block) {
    const size_t begin = block * kBlock, n = std::min(kBlock, vocab_ - begin);
    if (block_dirty_[block]) {
      for (size_t i = begin; i < begin + n; ++i) {
        if (suppressed(static_cast<int32_t>(i))) continue;
        total += static_cast<double>(exp_minus((best_ - scores[i]) * inverse_temperature));
      }
    } else {
      total += static_cast<double>(block_weight(scores.data() + begin, n, best_, inverse_temperature));
    }
  }
  return total;
}

void Sampler::weigh() {
  const double inverse_temperature = 1.0 / static_cast<double>(params_.temperature);
  for (Kept& one : kept_) {
    one.weight = std::exp((static_cast<double>(one.score) - static_cast<double>(best_)) * inverse_temperature);
  }
}

void Sampler::select(std::span<const float> scores) {
  const bool top_k = params_.top_k > 0 && static_cast<size_t>(params_.top_k) < vocab_;
  const double top_p = static_cast<double>(params_.top_p), min_p = static_cast<double>(params_.min_p);
  // Keeps the shortest run of best tokens whose weight reaches top_p of `total`; false if kept_ does not reach that
  // far.
  const auto cut_top_p = [&](double total) {
    double sum = 0.0;
    for (size_t i = 0; i < kept_.size(); ++i) {
      sum += kept_[i].weight;
      if (sum >= top_p * total) {
        kept_.resize(i + 1);
        return true;
      }
    }
    return false;
  };
  if (top_k) {
    collect_top(scores, static_cast<size_t>(params_.top_k));
    weigh();
    double total = 0.0;
    for (const Kept& one : kept_) total += one.weight;
    if (top_p < 1.0) cut_top_p(total);
  } else if (top_p < 1.0) {
    const double total = weight_sum(scores, 1.0f / params_.temperature);
    for (size_t k = 64;; k *= 8) {  // most nuclei are small
      collect_top(scores, std::min(k, vocab_));
      weigh();
      if (cut_top_p(total) || k >= vocab_) break;
    }
  } else {
    const float depth = min_p > 0.0 ? std::min(kNegligible, -std::log(params_.min_p) + 1e-3f) : kNegligible;
    collect(scores, best_ - depth * params_.temperature);
    weigh();
  }
  if (min_p > 0.0) {  // the best token weighs exactly 1
    std::erase_if(kept_, [&](const Kept& one) { return one.weight < min_p; });
  }
}

double Sampler::uniform() {
  // Counter-based: the n-th draw depends on (seed, n) alone.
  const uint64_t bits = mix(mix(params_.seed + 0x9e3779b97f4a7c15u) + ++draws_ * 0x9e3779b97f4a7c15u);
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

Result<float> Sampler::logprob(std::span<const float> logits, int32_t id) {
  if (!params_.logprobs) return std::numeric_limits<float>::quiet_NaN();
  if (penalised()) TANDEM_RETURN_IF_ERROR(scan(logits));  // best_ was of the penalised scores
  const double log_sum = std::log(weight_sum(logits, 1.0f));
  return static_cast<float>(static_cast<double>(logits[static_cast<size_t>(id)]) - static_cast<double>(best_) -
                            log_sum);
}

Result<Sampler::Choice> Sampler::sample(std::span<const float> logits) {
  TANDEM_ASSIGN_OR_RETURN(const std::span<const float> scores, adjust(logits));
  TANDEM_RETURN_IF_ERROR(scan(scores));
  Choice choice;
  if (greedy()) {
    choice.id = best_id(scores);
  } else {
    select(scores);
    double total = 0.0;
    for (const Kept& one : kept_) total += one.weight;
    double target = uniform() * total;
    choice.id = kept_.back().id;  // reached only when rounding leaves a rest
    for (const Kept& one : kept_) {
      target -= one.weight;
      if (target < 0.0) {
        choice.id = one.id;
        break;
      }
    }
  }
  TANDEM_ASSIGN_OR_RETURN(choice.logprob, logprob(logits, choice.id));
  return choice;
}

Status Sampler::distribution(std::span<const float> logits, std::span<float> out) {
  if (out.size() != vocab_) return Status(Code::kInvalidRequest, "distribution() needs room for one float per token");
  TANDEM_ASSIGN_OR_RETURN(const std::span<const float> scores, adjust(logits));
  TANDEM_RETURN_IF_ERROR(scan(scores));
  std::fill(out.begin(), out.end(), 0.0f);
  if (greedy()) {
    out[static_cast<size_t>(best_id(scores))] = 1.0f;
    return Status();
  }
  select(scores);
  double total = 0.0;
  for (const Kept& one : kept_) total += one.weight;
  for (const Kept& one : kept_) out[static_cast<size_t>(one.id)] = static_cast<float>(one.weight / total);
  return Status();
}

}  // namespace tandem
