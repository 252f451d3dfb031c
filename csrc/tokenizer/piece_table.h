// The text of every token. Most of a vocabulary is put together from its other pieces by the merges, so that a bundle
// needs to hold a tenth of it.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "tokenizer/digest_section.h"

namespace tandem::digest {

class PieceTable {
 public:
  static Result<PieceTable> build(const Section& section, std::span<const uint8_t> token_flags,
                                  std::span<const Merge> merges);

  // Empty outside the vocabulary.
  std::string_view at(uint32_t id) const {
    if (id >= size()) return {};
    return {text_.data() + begins_[id], sizes_[id]};
  }
  uint32_t size() const { return static_cast<uint32_t>(begins_.size()); }

 private:
  char* append(uint32_t id, size_t bytes);

  std::vector<uint32_t> begins_;  // by id: where the piece is in text_; kNone: not yet known
  std::vector<uint16_t> sizes_;   // by id, in bytes
  std::vector<char> text_;        // first the pieces of the bundle, then those put together
  size_t used_ = 0;               // of text_
};

}  // namespace tandem::digest
