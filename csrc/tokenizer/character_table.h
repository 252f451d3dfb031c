// The tokens of single characters and of bytes, which text is split into before anything merges.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "tokenizer/piece_table.h"

namespace tandem::digest {

class CharacterTable {
 public:
  CharacterTable();
  CharacterTable(std::span<const uint8_t> token_flags, const PieceTable& pieces);

  // kNone where the vocabulary has no such token.
  uint32_t character(char32_t code_point) const {
    const uint32_t page = code_point < kCodePoints ? page_index_[code_point / kPageSize] : kNone;
    return page == kNone ? kNone : pages_[size_t{page} * kPageSize + code_point % kPageSize];
  }
  uint32_t byte(uint8_t value) const { return bytes_[value]; }

 private:
  static constexpr uint32_t kCodePoints = 0x110000, kPageSize = 256;

  void add(char32_t code_point, uint32_t id);

  std::array<uint32_t, 256> bytes_;
  std::vector<uint32_t> page_index_;  // [kCodePoints / kPageSize], kNone: no token among these characters
  std::vector<uint32_t> pages_;       // [pages][kPageSize]
};

}  // namespace tandem::digest
