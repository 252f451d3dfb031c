// UTF-8 decoding with the Unicode standard's replacement rule; see utf8.h.
#include "tokenizer/utf8.h"

namespace tandem::utf8 {

Character decode(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  if (lead < 0xC2 || lead > 0xF4) return {};  // a continuation, an overlong lead or beyond U+10FFFF
  const size_t bytes = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range excludes overlong forms, surrogates and what lies beyond U+10FFFF.
  unsigned least = 0x80, most = 0xBF;
  if (lead == 0xE0) least = 0xA0;
  if (lead == 0xED) most = 0x9F;
  if (lead == 0xF0) least = 0x90;
  if (lead == 0xF4) most = 0x8F;
  char32_t code_point = lead & (0x7Fu >> bytes);
  for (size_t i = 1; i < bytes; ++i) {
    if (i >= text.size() || byte(i) < least || byte(i) > most) return {0, i, false};
    code_point = (code_point << 6) | (byte(i) & 0x3Fu);
    least = 0x80;
    most = 0xBF;
  }
  return {code_point, bytes, true};
}

bool is_valid(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Character one = decode(text.substr(at));
    if (!one.valid) return false;
    at += one.bytes;
  }
  return true;
}

std::string replace_invalid(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Character one = decode(text.substr(at));
    out.append(one.valid ? text.substr(at, one.bytes) : kReplacement);
    at += one.bytes;
  }
  return out;
}

}  // namespace tandem::utf8
