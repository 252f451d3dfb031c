// Where a generation ends: stop tokens, and stop strings found in streamed text however it is cut into pieces.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

// Passes streamed text through, holding back only what may be the beginning of a stop string. What it returns, put
// together, never contains a stop string nor anything after it, and does not depend on how the text was cut. Of several
// stop strings the one that is complete first wins; of those that end together, the longest.
class StopMatcher {
 public:
  StopMatcher(std::vector<int32_t> ids, const std::vector<std::string>& strings);

  // A stop token ends the generation and has no text.
  bool is_stop_id(int32_t id) const;

  // Takes the next piece and returns the text that is now safe to show. After a match: "" for ever.
  std::string push(std::string_view piece);

  // The generation ended for another reason: returns what was held back.
  std::string finish();

  bool matched() const { return matched_; }

 private:
  // One stop string with the failure table of Knuth, Morris and Pratt, and how much of it the text's end matches now.
  struct Pattern {
    std::string text;
    std::vector<size_t> fallback;
    size_t length = 0;
  };

  std::vector<int32_t> ids_;
  std::vector<Pattern> patterns_;
  std::string held_;
  bool matched_ = false;
};

}  // namespace tandem
