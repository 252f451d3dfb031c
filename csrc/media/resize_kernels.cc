#include "media/resize_kernels.h"

#include <algorithm>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace tandem {
namespace {

// 128-bit vectors, by the extensions that GCC and Clang share.
typedef int32_t Quad __attribute__((vector_size(16)));
typedef int16_t Oct __attribute__((vector_size(16)));
typedef int16_t OctU __attribute__((vector_size(16), aligned(2), may_alias));

// sum[i] + pairs[2i] * weights[0] + pairs[2i + 1] * weights[1]; pairs are not negative.
inline Quad add_pairs(Quad sum, Oct pairs, const int16_t* weights) {
#if defined(__SSE2__)
  int32_t both;
  std::memcpy(&both, weights, sizeof both);
  return sum + (Quad)_mm_madd_epi16((__m128i)pairs, _mm_set1_epi32(both));
#else
  return sum + ((Quad)pairs & 0xffff) * weights[0] + ((Quad)pairs >> 16) * weights[1];
#endif
}

uint8_t rounded(int32_t sum, int precision) { return static_cast<uint8_t>(std::clamp(sum >> precision, 0, 255)); }

void expand(const uint8_t* a, const uint8_t* b, int64_t pixels, int16_t* pairs) {
  for (int64_t x = 0; x < pixels; x += 2, pairs += 16) {
    const bool both = x + 1 < pixels;
    for (int64_t c = 0; c < 3; ++c) {
      pairs[2 * c] = a[3 * x + c];
      pairs[2 * c + 1] = both ? a[3 * x + 3 + c] : int16_t{0};
      pairs[8 + 2 * c] = b[3 * x + c];
      pairs[8 + 2 * c + 1] = both ? b[3 * x + 3 + c] : int16_t{0};
    }
    pairs[6] = pairs[7] = pairs[14] = pairs[15] = 0;
  }
}

void across(const int16_t* pairs, const AxisWeights& axis, uint8_t* out) {
  const auto outputs = static_cast<int64_t>(axis.first.size());
  const int32_t half = (1 << axis.precision) >> 1;
  const int16_t* weight = axis.weight.data();
  for (int64_t i = 0; i < outputs; ++i, weight += axis.taps, out += 6) {
    const int16_t* pixel = pairs + axis.first[static_cast<size_t>(i)] * 8;
    Quad a = {half, half, half, half}, b = a;
    for (int64_t t = 0; t < axis.taps; t += 2, pixel += 16) {
      a = add_pairs(a, *reinterpret_cast<const OctU*>(pixel), weight + t);
      b = add_pairs(b, *reinterpret_cast<const OctU*>(pixel + 8), weight + t);
    }
    for (int c = 0; c < 3; ++c) {
      out[2 * c] = rounded(a[c], axis.precision);
      out[2 * c + 1] = rounded(b[c], axis.precision);
    }
  }
}

void down(const uint8_t* const* rows, const int16_t* weights, int64_t taps, int precision, int64_t bytes,
          uint8_t* out) {
  typedef uint8_t BytesU __attribute__((vector_size(8), aligned(1), may_alias));
  const int32_t half = (1 << precision) >> 1;
  int64_t i = 0;
  for (; i + 16 <= bytes; i += 16) {
    Quad sum[4];
    for (Quad& s : sum) s = Quad{half, half, half, half};
    for (int64_t t = 0; t < taps; t += 2) {
      const uint8_t* row = rows[t / 2] + 2 * i;
      for (int k = 0; k < 4; ++k) {
        const auto pairs = __builtin_convertvector(*reinterpret_cast<const BytesU*>(row + 8 * k), Oct);
        sum[k] = add_pairs(sum[k], pairs, weights + t);
      }
    }
    for (int k = 0; k < 16; ++k) out[i + k] = rounded(sum[k / 4][k % 4], precision);
  }
  for (; i < bytes; ++i) {
    int32_t sum = half;
    for (int64_t t = 0; t < taps; t += 2) {
      sum += rows[t / 2][2 * i] * weights[t] + rows[t / 2][2 * i + 1] * weights[t + 1];
    }
    out[i] = rounded(sum, precision);
  }
}

}  // namespace

const ResizeKernels kBaselineResize = {expand, across, down};

const ResizeKernels& resize_kernels([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx2) return kAvx2Resize;
#endif
  return kBaselineResize;
}

}  // namespace tandem
