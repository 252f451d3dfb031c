// Streaming decoder; see stream_decoder.h.
#include "tokenizer/stream_decoder.h"

#include <utility>

#include "tokenizer/utf8.h"

namespace tandem {

std::string StreamDecoder::push(int32_t id) {
  if (!tokenizer_->is_token(id) || (skip_special_ && tokenizer_->is_special(id))) return {};
  if (const int value = tokenizer_->byte_value(id); value >= 0) {
    run_.push_back(static_cast<char>(value));
    return {};
  }
  std::string text = flush();
  const std::string piece = tokenizer_->piece(id);
  return text += utf8::is_valid(piece) ? piece : utf8::replace_invalid(piece);  // invalid only in a forged file
}

std::string StreamDecoder::flush() {
  std::string run = std::exchange(run_, {});
  if (utf8::is_valid(run)) return run;
  std::string text;
  for (size_t i = 0; i < run.size(); ++i) text += utf8::kReplacement;
  return text;
}

}  // namespace tandem
