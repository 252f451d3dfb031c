// The weights of one axis of the antialiased bicubic resize, as the reference computes them: cubic convolution with
// a = -0.5, widened by the scale when shrinking, normalised in double and rounded to int16 with the largest common
// power of two. (Pillow's fixed-point scheme, which torch's uint8 path shares.) Internal to this layer.
#pragma once

#include <cstdint>
#include <vector>

namespace tandem {

struct AxisWeights {
  int64_t taps = 0;             // weights per output: even; the surplus is zero
  int precision = 0;            // the weights are scaled by 2^precision
  std::vector<int64_t> first;   // [outputs]: first input of each output, even
  std::vector<int64_t> end;     // [outputs]: one after its last input
  std::vector<int16_t> weight;  // [outputs, taps]
};

// Both sizes at least 1. Memory: outputs * (4 * in / out + 6) * 8 bytes while it runs.
AxisWeights axis_weights(int64_t in, int64_t out);

}  // namespace tandem
