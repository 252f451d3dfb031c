// Token ids to text, one at a time: everything that push() and flush() return is valid UTF-8, and together it is what
// Tokenizer::decode() gives for all ids at once.
#pragma once

#include <cstdint>
#include <string>

#include "tokenizer/tokenizer.h"

namespace tandem {

class StreamDecoder {
 public:
  // Borrows the tokenizer.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = false)
      : tokenizer_(&tokenizer), skip_special_(skip_special) {}

  // The text that became final with this id; may be empty. Byte tokens are held back until their run ends, since one
  // bad byte makes U+FFFD of each byte in the run.
  std::string push(int32_t id);
  // The held-back rest. The decoder is as new afterwards.
  std::string flush();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string run_;  // bytes of the byte tokens at the end
};

}  // namespace tandem
