// The tokenizer's tables, built from the digest in a bundle. The digest (digest_section.h) holds what cannot be
// derived; everything in it is checked here, so that a forged one gives an error, or wrong tokens at worst. Gemma's
// 262,144 tokens with 514,906 merges are 2.6 MiB there and 9 MiB here; one core of a Zen 4 builds them in 20 ms, with
// 6 MiB more meanwhile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tokenizer/added_table.h"
#include "tokenizer/character_table.h"
#include "tokenizer/digest_section.h"
#include "tokenizer/merge_table.h"
#include "tokenizer/piece_table.h"

namespace tandem::digest {

struct Digest {
  uint32_t flags = 0;
  uint32_t vocab_size = 0;
  int32_t bos = -1, eos = -1, pad = -1, unk = -1;
  std::vector<uint8_t> token_flags;  // TokenFlag by id
  PieceTable pieces;
  CharacterTable characters;
  MergeTable merges;
  AddedTable added_raw, added_normalized;

  // Keeps nothing of `section`.
  static Result<Digest> open(std::span<const std::byte> section);

  bool has(Flag flag) const { return (flags & flag) != 0; }
  uint8_t flags_of(uint32_t id) const { return id < token_flags.size() ? token_flags[id] : uint8_t{0}; }
};

}  // namespace tandem::digest
