// Byte-pair encoding of one stretch of text that holds no added token.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "tokenizer/digest.h"

namespace tandem::bpe {

// Appends the tokens of `text` (valid UTF-8, already normalised). Merges by rank, then from the left: a heap over a
// linked list, O(n log n). Without `allow_special` no merge or character yields a special token.
void encode(const digest::Digest& digest, std::string_view text, bool allow_special, std::vector<int32_t>* out);

}  // namespace tandem::bpe
