// Building the tokenizer's tables; see digest.h.
#include "tokenizer/digest.h"

#include <string>
#include <utility>

#include "tokenizer/metaspace.h"

namespace tandem::digest {
namespace {

constexpr size_t kMaxAddedBytes = 1024;

// The added tokens that have `flag`.
Result<AddedTable> added_tokens(const Digest& digest, TokenFlag flag) {
  std::vector<AddedToken> tokens;
  for (uint32_t id = 0; id < digest.vocab_size; ++id) {
    const uint8_t flags = digest.token_flags[id];
    if ((flags & flag) == 0) continue;
    const std::string_view text = digest.pieces.at(id);
    if (text.size() > kMaxAddedBytes) return damaged("an added token is too long");
    const bool normalize = flag == kAddedNormalized && digest.has(kNormalizeSpaces);
    tokens.push_back({id, normalize ? replace_all(text, " ", kMetaspace) : std::string(text), (flags & kSpecial) != 0});
  }
  return AddedTable(std::move(tokens));
}

}  // namespace

Result<Digest> Digest::open(std::span<const std::byte> bytes) {
  TANDEM_ASSIGN_OR_RETURN(const Section section, Section::open(bytes));
  Digest digest;
  digest.flags = section.flags;
  digest.vocab_size = section.vocab_size;
  digest.bos = section.bos;
  digest.eos = section.eos;
  digest.pad = section.pad;
  digest.unk = section.unk;
  TANDEM_ASSIGN_OR_RETURN(digest.token_flags, read_token_flags(section));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Merge> merges, read_merges(section, digest.token_flags));
  TANDEM_ASSIGN_OR_RETURN(digest.pieces, PieceTable::build(section, digest.token_flags, merges));
  TANDEM_ASSIGN_OR_RETURN(digest.merges, MergeTable::build(section.vocab_size, merges));
  digest.characters = CharacterTable(digest.token_flags, digest.pieces);
  TANDEM_ASSIGN_OR_RETURN(digest.added_raw, added_tokens(digest, kAddedRaw));
  TANDEM_ASSIGN_OR_RETURN(digest.added_normalized, added_tokens(digest, kAddedNormalized));
  return digest;
}

}  // namespace tandem::digest
