// Every stop string runs as an automaton over the bytes: linear in the text, whatever the strings look like.
#include "decode/stop.h"

#include <algorithm>
#include <utility>

namespace tandem {

StopMatcher::StopMatcher(std::vector<int32_t> ids, const std::vector<std::string>& strings) : ids_(std::move(ids)) {
  for (const std::string& text : strings) {
    if (text.empty()) continue;
    Pattern pattern{text, std::vector<size_t>(text.size(), 0), 0};
    for (size_t i = 1, k = 0; i < text.size(); ++i) {
      while (k > 0 && text[i] != text[k]) k = pattern.fallback[k - 1];
      if (text[i] == text[k]) ++k;
      pattern.fallback[i] = k;
    }
    patterns_.push_back(std::move(pattern));
  }
}

bool StopMatcher::is_stop_id(int32_t id) const { return std::find(ids_.begin(), ids_.end(), id) != ids_.end(); }

std::string StopMatcher::push(std::string_view piece) {
  if (matched_) return "";
  const size_t before = held_.size();
  held_ += piece;
  size_t longest = 0;  // of the partial matches that end at the current byte
  for (size_t i = before; i < held_.size(); ++i) {
    longest = 0;
    size_t complete = 0;
    for (Pattern& pattern : patterns_) {
      while (pattern.length > 0 && held_[i] != pattern.text[pattern.length]) {
        pattern.length = pattern.fallback[pattern.length - 1];
      }
      if (held_[i] == pattern.text[pattern.length]) ++pattern.length;
      longest = std::max(longest, pattern.length);
      if (pattern.length == pattern.text.size()) complete = std::max(complete, pattern.length);
    }
    if (complete > 0) {
      matched_ = true;
      std::string safe = held_.substr(0, i + 1 - complete);
      held_.clear();
      return safe;
    }
  }
  if (held_.size() == before) return "";  // an empty piece changes nothing
  std::string safe = held_.substr(0, held_.size() - longest);
  held_.erase(0, safe.size());
  return safe;
}

std::string StopMatcher::finish() {
  for (Pattern& pattern : patterns_) pattern.length = 0;
  return std::exchange(held_, std::string());
}

}  // namespace tandem
