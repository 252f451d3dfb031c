// What the kernels of linear.h share. Included within the namespace of each, after it has set TANDEM_LANES and the
// target; no public header.
#pragma once

#include "kernels/simd.h"

TANDEM_INLINE __m512i bytes_at(const std::byte* p) { return _mm512_loadu_si512(p); }

TANDEM_INLINE __m512i shifted(__m512i w) { return (__m512i)((Int)w << 4); }

// Sums, zero points and scales to 16 outputs of one row. `shift`: the sums are 2^shift times too large, exactly.
TANDEM_INLINE void finish(__m512i sum, int shift, const std::byte* sums, const std::byte* scales, int32_t zero,
                          float scale, float* out) {
  sum = (__m512i)(((Int)sum + (Int)bytes_at(sums) * zero) >> shift);
  const __m512 scaled = _mm512_mul_ps(_mm512_maskz_cvtepi32_ps(0xffff, sum), _mm512_set1_ps(scale));
  _mm512_storeu_ps(out, _mm512_mul_ps(scaled, _mm512_loadu_ps(scales)));
}

constexpr int64_t kBlockScales = 32;  // bytes of scales behind a block of 16 outputs

TANDEM_INLINE __m512 block_scales(const std::byte* p) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  // A bfloat16 is the upper half of a float.
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, halves), 16));
}

// Integers of a block to what the blocks before it give. Blocks are added in their order, wherever it is done.
TANDEM_INLINE __m512 add_scaled(__m512i sum, __m512 scales, __m512 to) {
  return _mm512_fmadd_ps(_mm512_maskz_cvtepi32_ps(0xffff, sum), scales, to);
}

// What the blocks of one row give to its 16 outputs.
TANDEM_INLINE void finish_blocks(__m512 sum, const std::byte* sums, int32_t zero, float scale, float* out) {
  const __m512 moved = _mm512_fmadd_ps(_mm512_set1_ps(static_cast<float>(zero)), _mm512_loadu_ps(sums), sum);
  _mm512_storeu_ps(out, _mm512_mul_ps(moved, _mm512_set1_ps(scale)));
}
