// The resize loops for AVX2. The target is set after the headers, so that inline functions shared with other files stay
// runnable everywhere.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

#include "media/resize_kernels.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

namespace tandem {
namespace {

__m128i load16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
__m256i load32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
void store32(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

// Two weights as one 32-bit lane, in all lanes.
__m256i weight_pair(const int16_t* weights) {
  int32_t pair;
  std::memcpy(&pair, weights, sizeof pair);
  return _mm256_set1_epi32(pair);
}

void expand_avx2(const uint8_t* a, const uint8_t* b, int64_t pixels, int16_t* pairs) {
  // Four pixels: their bytes in the order of two groups of `pairs`; -1 gives 0.
  const __m128i order = _mm_setr_epi8(0, 3, 1, 4, 2, 5, -1, -1, 6, 9, 7, 10, 8, 11, -1, -1);
  int64_t x = 0;
  for (; x + 6 <= pixels; x += 4, pairs += 32) {  // 16 bytes are read where 12 are used
    const __m256i from_a = _mm256_cvtepu8_epi16(_mm_shuffle_epi8(load16(a + 3 * x), order));
    const __m256i from_b = _mm256_cvtepu8_epi16(_mm_shuffle_epi8(load16(b + 3 * x), order));
    store32(pairs, _mm256_permute2x128_si256(from_a, from_b, 0x20));
    store32(pairs + 16, _mm256_permute2x128_si256(from_a, from_b, 0x31));
  }
  kBaselineResize.expand(a + 3 * x, b + 3 * x, pixels - x, pairs);
}

void across_avx2(const int16_t* pairs, const AxisWeights& axis, uint8_t* out) {
  const auto outputs = static_cast<int64_t>(axis.first.size());
  const __m256i half = _mm256_set1_epi32((1 << axis.precision) >> 1);
  const __m128i shift = _mm_cvtsi32_si128(axis.precision);
  // After both packs each row is 4 bytes, r g b 0: interleave them.
  const __m128i order = _mm_setr_epi8(0, 4, 1, 5, 2, 6, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const int16_t* weight = axis.weight.data();
  for (int64_t i = 0; i < outputs; ++i, weight += axis.taps, out += 6) {
    const int16_t* pixel = pairs + axis.first[static_cast<size_t>(i)] * 8;
    __m256i sum = half;
    for (int64_t t = 0; t < axis.taps; t += 2, pixel += 16) {
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(load32(pixel), weight_pair(weight + t)));
    }
    sum = _mm256_sra_epi32(sum, shift);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    const __m128i bytes = _mm_shuffle_epi8(_mm_packus_epi16(words, words), order);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out), bytes);  // 8 bytes, 6 of them ours
  }
}

void down_avx2(const uint8_t* const* rows, const int16_t* weights, int64_t taps, int precision, int64_t bytes,
               uint8_t* out) {
  const __m256i half = _mm256_set1_epi32((1 << precision) >> 1);
  const __m128i shift = _mm_cvtsi32_si128(precision);
  int64_t i = 0;
  for (; i + 32 <= bytes; i += 32) {
    __m256i sum[4] = {half, half, half, half};
    for (int64_t t = 0; t < taps; t += 2) {
      const uint8_t* row = rows[t / 2] + 2 * i;
      const __m256i pair = weight_pair(weights + t);
      for (int k = 0; k < 4; ++k) {
        sum[k] = _mm256_add_epi32(sum[k], _mm256_madd_epi16(_mm256_cvtepu8_epi16(load16(row + 16 * k)), pair));
      }
    }
    for (__m256i& s : sum) s = _mm256_sra_epi32(s, shift);
    // The packs work within 128-bit halves; the permutation puts groups of four bytes back in order.
    const __m256i mixed = _mm256_packus_epi16(_mm256_packs_epi32(sum[0], sum[1]), _mm256_packs_epi32(sum[2], sum[3]));
    store32(out + i, _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
  }
  for (; i < bytes; ++i) {
    int32_t sum = (1 << precision) >> 1;
    for (int64_t t = 0; t < taps; t += 2) {
      sum += rows[t / 2][2 * i] * weights[t] + rows[t / 2][2 * i + 1] * weights[t + 1];
    }
    sum >>= precision;
    out[i] = static_cast<uint8_t>(sum < 0 ? 0 : sum > 255 ? 255 : sum);
  }
}

}  // namespace

const ResizeKernels kAvx2Resize = {expand_avx2, across_avx2, down_avx2};

}  // namespace tandem

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
