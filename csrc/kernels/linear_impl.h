// What the kernels of linear.h share. Included within the namespace of each, behind the target and simd.h; no public
// header.
#pragma once

TANDEM_INLINE __m512i bytes_at(const std::byte* p) { return _mm512_loadu_si512(p); }

TANDEM_INLINE __m512i shifted(__m512i w) { return (__m512i)((Int)w << 4); }

// Sums, zero points and scales to 16 outputs of one row. `shift`: the sums are 2^shift times too large, exactly.
TANDEM_INLINE void finish(__m512i sum, int shift, const std::byte* sums, const std::byte* scales, int64_t biases,
                          int32_t zero, float scale, float* out) {
  sum = (__m512i)(((Int)sum + (Int)bytes_at(sums) * zero) >> shift);
  const __m512 scaled = _mm512_mul_ps(_mm512_maskz_cvtepi32_ps(0xffff, sum), _mm512_set1_ps(scale));
  _mm512_storeu_ps(out, _mm512_fmadd_ps(scaled, _mm512_loadu_ps(scales), _mm512_loadu_ps(scales + biases)));
}
