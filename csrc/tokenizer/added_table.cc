// Searching for added tokens; see added_table.h.
#include "tokenizer/added_table.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace tandem::digest {

AddedTable::AddedTable(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::ranges::sort(tokens_, {}, [](const AddedToken& one) { return std::tie(one.content, one.id); });
}

const AddedToken* AddedTable::longest_prefix(std::string_view text) const {
  // The tokens that share the first `depth` bytes of the text are the range [low, high), which shrinks byte by byte.
  size_t low = 0, high = tokens_.size();
  const AddedToken* found = nullptr;
  for (size_t depth = 0; depth < text.size() && low < high; ++depth) {
    const auto wanted = static_cast<unsigned char>(text[depth]);
    const auto key = [&](size_t i) {  // -1: the token ends here and sorts first
      const std::string& one = tokens_[i].content;
      return depth < one.size() ? static_cast<int>(static_cast<unsigned char>(one[depth])) : -1;
    };
    const auto bound = [&](size_t from, int least) {  // first in [from, high) whose byte is at least `least`
      size_t left = from, right = high;
      while (left < right) {
        const size_t middle = left + (right - left) / 2;
        if (key(middle) < least) {
          left = middle + 1;
        } else {
          right = middle;
        }
      }
      return left;
    };
    low = bound(low, wanted);
    high = bound(low, wanted + 1);
    if (low < high && tokens_[low].content.size() == depth + 1) found = &tokens_[low];
  }
  return found;
}

}  // namespace tandem::digest
