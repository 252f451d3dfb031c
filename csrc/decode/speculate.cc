#include "decode/speculate.h"

namespace tandem {

float* DraftRound::begin(std::span<const int32_t> drafts) {
  drafts_.assign(drafts.begin(), drafts.end());
  const std::size_t needed = (drafts.size() + 1) * vocab_;
  if (logits_.size() < needed) logits_.resize(needed);
  judged_ = accepted_ = 0;
  pending_ = false;
  return logits_.data();
}

bool DraftRound::take(int32_t id) {
  const bool match = judged_ < drafted() && drafts_[static_cast<std::size_t>(judged_)] == id;
  ++judged_;
  accepted_ += match ? 1 : 0;
  pending_ = match;
  return match;
}

}  // namespace tandem
