// Added tokens, normaliser and decoder around the byte-pair encoder; see tokenizer.h.
#include "tokenizer/tokenizer.h"

#include <utility>

#include "tokenizer/bpe.h"
#include "tokenizer/metaspace.h"
#include "tokenizer/stream_decoder.h"
#include "tokenizer/utf8.h"

namespace tandem {
namespace {

// Calls plain(text) for the stretches between added tokens and token(id) for those: the leftmost match, and the longest
// there. A special one that may not be parsed stays in its stretch, but still hides matches that overlap it, as in
// Hugging Face.
template <class Plain, class Token>
void split_at_added(const digest::AddedTable& table, std::string_view text, bool parse_special, Plain plain,
                    Token token) {
  size_t start = 0;
  if (!table.empty()) {
    for (size_t at = 0; at < text.size();) {
      const digest::AddedToken* const match = table.longest_prefix(text.substr(at));
      if (match == nullptr) {
        ++at;
        continue;
      }
      if (parse_special || !match->special) {
        if (start < at) plain(text.substr(start, at - start));
        token(match->id);
        start = at + match->content.size();
      }
      at += match->content.size();
    }
  }
  if (start < text.size()) plain(text.substr(start));
}

int hex(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'A' && digit <= 'F') return digit - 'A' + 10;
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  return -1;
}

}  // namespace

Result<Tokenizer> Tokenizer::from_digest(std::span<const std::byte> section) {
  TANDEM_ASSIGN_OR_RETURN(digest::Digest opened, digest::Digest::open(section));
  return Tokenizer(std::move(opened));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_bos, bool parse_special) const {
  std::vector<int32_t> ids;
  if (text.size() > kMaxTextBytes) return ids;
  if (add_bos && digest_.bos >= 0) ids.push_back(digest_.bos);
  std::string repaired;
  if (!utf8::is_valid(text)) {
    repaired = utf8::replace_invalid(text);
    text = repaired;
  }
  const auto token = [&](uint32_t id) { ids.push_back(static_cast<int32_t>(id)); };
  const auto normalized = [&](std::string_view part) {
    split_at_added(
        digest_.added_normalized, part, parse_special,
        [&](std::string_view plain) { bpe::encode(digest_, plain, parse_special, &ids); }, token);
  };
  split_at_added(
      digest_.added_raw, text, parse_special,
      [&](std::string_view part) {
        if (digest_.has(digest::kNormalizeSpaces) && part.find(' ') != std::string_view::npos) {
          normalized(replace_all(part, " ", kMetaspace));
        } else {
          normalized(part);
        }
      },
      token);
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  StreamDecoder decoder(*this, skip_special);
  std::string out;
  for (const int32_t id : ids) out += decoder.push(id);
  return out += decoder.flush();
}

std::string Tokenizer::piece(int32_t id) const {
  if (!is_token(id)) return {};
  if (const int value = byte_value(id); value >= 0) return std::string(1, static_cast<char>(value));
  const std::string_view text = digest_.pieces.at(static_cast<uint32_t>(id));
  return digest_.has(digest::kDecodeSpaces) ? replace_all(text, kMetaspace, " ") : std::string(text);
}

int Tokenizer::byte_value(int32_t id) const {
  if (!is_token(id)) return -1;
  const std::string_view text = digest_.pieces.at(static_cast<uint32_t>(id));
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  const int high = hex(text[3]), low = hex(text[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

}  // namespace tandem
