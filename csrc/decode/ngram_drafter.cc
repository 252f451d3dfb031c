#include "decode/ngram_drafter.h"

#include <algorithm>

namespace tandem {
namespace {

constexpr int kPair = 2;         // tokens that must agree
constexpr int kCandidates = 16;  // occurrences that are compared
constexpr int kLongest = 32;     // a longer agreement says no more
constexpr int32_t kNone = -1;

}  // namespace

uint64_t NgramDrafter::key(int32_t first, int32_t second) {
  return static_cast<uint64_t>(static_cast<uint32_t>(first)) << 32 | static_cast<uint32_t>(second);
}

void NgramDrafter::update(std::span<const int32_t> tokens) {
  tokens_.reserve(tokens.size());
  for (std::size_t at = tokens_.size(); at < tokens.size(); ++at) {
    tokens_.push_back(tokens[at]);
    older_.push_back(kNone);
    if (at < kPair) continue;
    const auto [entry, inserted] = newest_.try_emplace(key(tokens_[at - 2], tokens_[at - 1]), kNone);
    older_[at] = entry->second;
    entry->second = static_cast<int32_t>(at);
  }
}

void NgramDrafter::truncate(int64_t position) {
  while (size() > position) {
    const std::size_t at = tokens_.size() - 1;
    if (at >= kPair) {
      const auto entry = newest_.find(key(tokens_[at - 2], tokens_[at - 1]));
      if (older_[at] == kNone) {
        newest_.erase(entry);
      } else {
        entry->second = older_[at];
      }
    }
    tokens_.pop_back();
    older_.pop_back();
  }
}

NgramDrafter::Draft NgramDrafter::draft(int count) const {
  Draft out;
  const std::size_t end = tokens_.size();
  if (end <= kPair || count <= 0) return out;
  const auto found = newest_.find(key(tokens_[end - 2], tokens_[end - 1]));
  if (found == newest_.end()) return out;
  std::size_t best = 0;
  int32_t at = found->second;
  for (int i = 0; i < kCandidates && at != kNone && out.matched < kLongest; ++i) {
    const auto start = static_cast<std::size_t>(at);
    int matched = kPair;
    while (matched < kLongest && static_cast<std::size_t>(matched) < start &&
           tokens_[start - 1 - static_cast<std::size_t>(matched)] ==
               tokens_[end - 1 - static_cast<std::size_t>(matched)]) {
      ++matched;
    }
    if (matched > out.matched) {
      out.matched = matched;
      best = start;
    }
    at = older_[start];
  }
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    // A continuation that reaches the end goes on with itself: the text is periodic.
    const std::size_t from = best + i;
    out.ids.push_back(from < end ? tokens_[from] : out.ids[from - end]);
  }
  return out;
}

}  // namespace tandem
