// One round of speculative decoding. The target scores [last token, draft 1 .. draft K] in one step; the rows of logits
// are then handed out one by one, for as long as the token chosen from a row is the draft whose row comes next. Every
// token is chosen from the target's own distribution, with whatever penalties and stops apply at that place, exactly as
// without drafts: greedy text is the same, and so is the distribution of sampled text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace tandem {

class DraftRound {
 public:
  explicit DraftRound(std::size_t vocab_size) : vocab_(vocab_size) {}

  // Begins a round with these drafts (none: an ordinary step); returns room for drafts.size() + 1 rows of logits.
  float* begin(std::span<const int32_t> drafts);

  // Says that begin()'s rows have been written.
  void scored() { pending_ = true; }

  bool pending() const { return pending_; }
  // The logits to choose the next token from; only while pending().
  std::span<const float> row() const { return {logits_.data() + static_cast<std::size_t>(judged_) * vocab_, vocab_}; }

  // Tells which token was chosen from row(). True when it is the draft; then the next row is valid.
  bool take(int32_t id);

  // Forgets the remaining rows: the sequence ended or changed.
  void drop() { pending_ = false; }

  int drafted() const { return static_cast<int>(drafts_.size()); }
  int judged() const { return judged_ < drafted() ? judged_ : drafted(); }  // drafts that a token was compared with
  int accepted() const { return accepted_; }

 private:
  std::size_t vocab_;
  std::vector<int32_t> drafts_;
  std::vector<float> logits_;
  int judged_ = 0;  // rows that were taken
  int accepted_ = 0;
  bool pending_ = false;
};

}  // namespace tandem
