// The inner loops of the resize, once per instruction set. Two rows travel together: their pixels in pairs for the pass
// across, their bytes interleaved for the pass down, so that both passes are sums of 16-bit pairs. Internal to this
// layer.
#pragma once

#include <cstdint>

#include "base/cpu_features.h"
#include "media/resample_weights.h"

namespace tandem {

// Unsigned sums of weighted bytes are rounded at half of 2^precision and clamped, as in the reference.
struct ResizeKernels {
  // Rows a and b [pixels, 3] -> pairs [ceil(pixels / 2), 16]: a's r0 r1 g0 g1 b0 b1 0 0, then b's. A missing last pixel
  // is 0.
  void (*expand)(const uint8_t* a, const uint8_t* b, int64_t pixels, int16_t* pairs);
  // Pairs of pixels -> out [outputs, 3, 2], rows a and b interleaved. `pairs` is readable for axis.taps pixels beyond
  // the last; `out` writable for 2 bytes beyond.
  void (*across)(const int16_t* pairs, const AxisWeights& axis, uint8_t* out);
  // rows[i] [bytes, 2]: interleaved rows 2i and 2i + 1; weights [taps] -> out [bytes].
  void (*down)(const uint8_t* const* rows, const int16_t* weights, int64_t taps, int precision, int64_t bytes,
               uint8_t* out);
};

extern const ResizeKernels kBaselineResize;
#if defined(__x86_64__)
extern const ResizeKernels kAvx2Resize;
#endif

const ResizeKernels& resize_kernels(Isa isa);

}  // namespace tandem
