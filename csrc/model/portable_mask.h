// The attention mask of the portable graphs. Depends on target.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

#include "model/target.h"

namespace tandem {

inline constexpr float kMasked = -0.7f * std::numeric_limits<float>::max();  // LiteRT-LM's value for float masks

// Fills [rows, context] for `count` tokens at `start`: row i may see keys 0 .. start+i, one of an image the whole image
// (the graph takes the later ones away again in full layers); a row of padding sees key 0, so that its softmax stays
// finite.
template <class T>
void fill_mask(T* out, int64_t rows, int64_t context, int64_t start, int64_t count, std::span<const SoftRows> soft,
               T shown, T hidden) {
  for (int64_t row = 0; row < rows; ++row, out += context) {
    int64_t visible = row < count ? start + row + 1 : 1;
    for (const SoftRows& span : soft) {
      if (span.block && row < count && span.first <= start + row && start + row < span.end()) visible = span.end();
    }
    std::fill(out, out + visible, shown);
    std::fill(out + visible, out + context, hidden);
  }
}

}  // namespace tandem
