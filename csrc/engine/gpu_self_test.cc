#include "engine/gpu_self_test.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

namespace tandem {
namespace {

constexpr int64_t kPrompt = 11, kScored = 4;  // in all less than the smallest context

// Nobody else has a step to run.
class OpenGate : public StepGate {
 public:
  Status enter() override { return {}; }
  void leave() override {}
  const std::atomic<bool>& cancelled() const override { return cancelled_; }

 private:
  std::atomic<bool> cancelled_ = false;
};

Result<std::vector<float>> scored(Target& target, std::span<const int32_t> ids) {
  OpenGate gate;
  TANDEM_ASSIGN_OR_RETURN(const auto cache, target.new_cache());
  std::vector<float> logits(static_cast<std::size_t>(kScored * target.vocab_size()));
  int64_t done = 0;
  TANDEM_RETURN_IF_ERROR(target.prefill(*cache, 0, ids.first(kPrompt), {}, gate, &done));
  for (done = 0; done < kScored;) {
    ScoreItem item{cache.get(), kPrompt + done, ids.subspan(static_cast<std::size_t>(kPrompt + done)),
                   logits.data() + done * target.vocab_size()};
    ScoreItem* const items[] = {&item};
    target.score(items);
    TANDEM_RETURN_IF_ERROR(item.status);
    done += item.done;
  }
  return logits;
}

}  // namespace

Result<double> logit_difference(Target& candidate, Target& reference) {
  std::mt19937 random(1);
  std::vector<int32_t> ids(kPrompt + kScored);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<uint32_t>(reference.vocab_size()));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<float> got, scored(candidate, ids));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<float> expected, scored(reference, ids));
  double mean = 0, spread = 0, difference = 0;
  for (const float value : expected) mean += value;
  mean /= static_cast<double>(expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    spread += (expected[i] - mean) * (expected[i] - mean);
    difference += (double{got[i]} - expected[i]) * (double{got[i]} - expected[i]);
  }
  return spread > 0 ? std::sqrt(difference / spread) : 0.0;
}

}  // namespace tandem
