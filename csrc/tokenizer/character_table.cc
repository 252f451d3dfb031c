// Characters and bytes of a vocabulary; see character_table.h.
#include "tokenizer/character_table.h"

#include <string_view>

#include "tokenizer/utf8.h"

namespace tandem::digest {
namespace {

// The value of "<0x41>", whose digits are upper case, or -1.
int byte_of(std::string_view text) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  const size_t high = kDigits.find(text[3]), low = kDigits.find(text[4]);
  return high == kDigits.npos || low == kDigits.npos ? -1 : static_cast<int>(high * 16 + low);
}

}  // namespace

CharacterTable::CharacterTable() : page_index_(kCodePoints / kPageSize, kNone) { bytes_.fill(kNone); }

CharacterTable::CharacterTable(std::span<const uint8_t> token_flags, const PieceTable& pieces) : CharacterTable() {
  for (uint32_t id = 0; id < pieces.size(); ++id) {
    if ((token_flags[id] & kInVocabulary) == 0) continue;  // of added tokens only those that the model has too
    const std::string_view text = pieces.at(id);
    if (const int value = byte_of(text); value >= 0) bytes_[static_cast<size_t>(value)] = id;
    if (text.empty() || text.size() > 4) continue;
    if (const utf8::Character one = utf8::decode(text); one.valid && one.bytes == text.size()) add(one.code_point, id);
  }
}

void CharacterTable::add(char32_t code_point, uint32_t id) {
  uint32_t& page = page_index_[code_point / kPageSize];
  if (page == kNone) {
    page = static_cast<uint32_t>(pages_.size() / kPageSize);
    pages_.resize(pages_.size() + kPageSize, kNone);
  }
  pages_[size_t{page} * kPageSize + code_point % kPageSize] = id;
}

}  // namespace tandem::digest
