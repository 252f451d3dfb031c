// Text to token ids and back, from the digest in a bundle (digest.h): byte-pair encoding with byte fallback, as
// Hugging Face `tokenizers` does it for Gemma. A const Tokenizer may be used from any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "tokenizer/digest.h"

namespace tandem {

class Tokenizer {
 public:
  // Checks the section and builds the tables; keeps nothing of it.
  static Result<Tokenizer> from_digest(std::span<const std::byte> section);

  // Longest text that encode() takes; a longer one gives no tokens (callers refuse it first, at far less).
  static constexpr size_t kMaxTextBytes = size_t{1} << 30;

  // Invalid UTF-8 becomes U+FFFD first. `parse_special`: special tokens in the text (<bos>, turn markers) become their
  // ids; otherwise they are ordinary text and their ids never come out of it. Added tokens that are not special are
  // found in both cases (Hugging Face: encode_special_tokens = !parse_special). O(n log n).
  std::vector<int32_t> encode(std::string_view text, bool add_bos = false, bool parse_special = false) const;

  // Valid UTF-8; ids outside the vocabulary are left out. A run of byte tokens that is not valid UTF-8 as a whole
  // becomes one U+FFFD per byte (Hugging Face's ByteFallback).
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  // The bytes that one id contributes to the text: one raw byte for a byte token, empty outside the vocabulary.
  std::string piece(int32_t id) const;
  // The value of a byte token such as <0x0A>, or -1.
  int byte_value(int32_t id) const;

  int32_t vocab_size() const { return static_cast<int32_t>(digest_.vocab_size); }
  bool is_token(int32_t id) const { return (flags_of(id) & digest::kPresent) != 0; }
  bool is_special(int32_t id) const { return (flags_of(id) & digest::kSpecial) != 0; }
  // -1 where the tokenizer has none.
  int32_t bos_id() const { return digest_.bos; }
  int32_t eos_id() const { return digest_.eos; }
  int32_t pad_id() const { return digest_.pad; }
  int32_t unk_id() const { return digest_.unk; }

 private:
  explicit Tokenizer(digest::Digest&& opened) : digest_(std::move(opened)) {}
  uint8_t flags_of(int32_t id) const { return id < 0 ? uint8_t{0} : digest_.flags_of(static_cast<uint32_t>(id)); }

  digest::Digest digest_;
};

}  // namespace tandem
