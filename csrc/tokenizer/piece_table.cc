// Texts of the tokens; see piece_table.h.
#include "tokenizer/piece_table.h"

#include <algorithm>
#include <cstring>

#include "tokenizer/byte_reader.h"

namespace tandem::digest {
namespace {

constexpr size_t kBlock = 16;

// Copies whole blocks: for the many short pieces that costs no branch that depends on their lengths. Reads and writes
// up to a block too much; the next piece overwrites it.
void copy_blocks(char* to, std::string_view from) {
  const char* const end = from.data() + from.size();
  for (const char* at = from.data(); at < end; at += kBlock, to += kBlock) {
    char block[kBlock];
    std::memcpy(block, at, kBlock);
    std::memcpy(to, block, kBlock);
  }
}

}  // namespace

// Where the text of `id`, the next in text_, is to be written; null where it does not fit.
char* PieceTable::append(uint32_t id, size_t bytes) {
  if (bytes > kMaxPieceBytes || bytes > text_.size() - kBlock - used_) return nullptr;
  begins_[id] = static_cast<uint32_t>(used_);
  sizes_[id] = static_cast<uint16_t>(bytes);
  used_ += bytes;
  return text_.data() + begins_[id];
}

Result<PieceTable> PieceTable::build(const Section& section, std::span<const uint8_t> token_flags,
                                     std::span<const Merge> merges) {
  PieceTable table;
  table.begins_.assign(token_flags.size(), kNone);
  table.sizes_.assign(token_flags.size(), 0);
  table.text_.resize(section.text_bytes + kBlock);
  ByteReader pieces(section.pieces);
  for (uint32_t id = 0; id < token_flags.size(); ++id) {
    if ((token_flags[id] & kPresent) == 0) table.begins_[id] = 0;
    if ((token_flags[id] & kStored) == 0) continue;
    uint32_t bytes = 0;
    std::string_view text;
    if (!pieces.number(&bytes) || !pieces.text(bytes, &text)) return damaged("the table of pieces ends early");
    char* const place = table.append(id, bytes);
    if (place == nullptr) return damaged("a piece is too long");
    std::memcpy(place, text.data(), bytes);
  }
  if (!pieces.done()) return damaged("the table of pieces goes on after the last piece");

  for (const Merge& merge : merges) {
    if (table.begins_[merge.merged] != kNone) continue;
    if (table.begins_[merge.left] == kNone || table.begins_[merge.right] == kNone) continue;
    const std::string_view left = table.at(merge.left), right = table.at(merge.right);
    char* const place = table.append(merge.merged, left.size() + right.size());
    if (place == nullptr) return damaged("a piece is too long");
    copy_blocks(place, left);
    copy_blocks(place + left.size(), right);
  }
  if (table.used_ != section.text_bytes) return damaged("the pieces are shorter than announced");
  if (std::ranges::find(table.begins_, kNone) != table.begins_.end()) return damaged("a token has no text");
  return table;
}

}  // namespace tandem::digest
