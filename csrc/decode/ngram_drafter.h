// Prompt lookup: drafts the tokens that followed the newest earlier occurrence of what the sequence ends with. Costs no
// model, works where text repeats (edits, code, quotes). Constant time per token; single owner.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace tandem {

class NgramDrafter {
 public:
  struct Draft {
    std::vector<int32_t> ids;
    int matched = 0;  // tokens before the draft that agree: how far to trust it
  };

  // Makes the index cover `tokens`. What it covers already must be a prefix of them (truncate() first, if not).
  void update(std::span<const int32_t> tokens);

  // Forgets the tokens from `position` on.
  void truncate(int64_t position);

  // At most `count` tokens to follow the sequence; none when its end occurred nowhere before.
  Draft draft(int count) const;

  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }

 private:
  static uint64_t key(int32_t first, int32_t second);

  std::vector<int32_t> tokens_;
  // Positions that follow an occurrence of a pair of tokens, newest first: where the list starts, and its links. The
  // pair at the very end is not in there yet: it would only find itself.
  std::unordered_map<uint64_t, int32_t> newest_;
  std::vector<int32_t> older_;
};

}  // namespace tandem
