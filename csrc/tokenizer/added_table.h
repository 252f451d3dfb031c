// Added tokens (turn markers, <bos>, runs of newlines), which are found in the text before the model sees it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/digest_section.h"

namespace tandem::digest {

struct AddedToken {
  uint32_t id = kNone;
  std::string content;  // as it is searched for
  bool special = false;
};

class AddedTable {
 public:
  AddedTable() = default;
  explicit AddedTable(std::vector<AddedToken> tokens);

  bool empty() const { return tokens_.empty(); }
  // The longest token that `text` starts with; null when there is none.
  const AddedToken* longest_prefix(std::string_view text) const;

 private:
  std::vector<AddedToken> tokens_;  // by content
};

}  // namespace tandem::digest
