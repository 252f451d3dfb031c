// One vector of floats, as wide as the instruction set that this file is being compiled for, by the vector extensions
// that GCC and Clang share. Included once by each kernels_<isa>.cc, after it has set TANDEM_LANES and the target; no
// public header.
#pragma once

#if !defined(TANDEM_LANES)
#error "define TANDEM_LANES (4, 8 or 16) before including kernels/simd.h"
#endif

#define TANDEM_INLINE static inline __attribute__((always_inline))

typedef float Vec __attribute__((vector_size(TANDEM_LANES * 4)));
typedef float VecU __attribute__((vector_size(TANDEM_LANES * 4), aligned(4), may_alias));  // for loads anywhere
typedef int32_t Int __attribute__((vector_size(TANDEM_LANES * 4)));
typedef int32_t IntU __attribute__((vector_size(TANDEM_LANES * 4), aligned(4), may_alias));
typedef float Vec4 __attribute__((vector_size(16)));
typedef float Vec4U __attribute__((vector_size(16), aligned(4), may_alias));

constexpr int kLanes = TANDEM_LANES;
// Register tiles. Few rows: kTileRows rows by 4 keys (scores) or vectors (values). Many rows: kScoreVectors vectors of
// rows by kScoreKeys keys, and kTileRows rows by kStripVectors vectors.
#if TANDEM_LANES == 16 || defined(__aarch64__)  // 32 vector registers
constexpr int kTileRows = 4;
constexpr int kScoreVectors = 2, kScoreKeys = 12, kStripVectors = 4;
#else  // 16
constexpr int kTileRows = 2;
constexpr int kScoreVectors = 2, kScoreKeys = 6, kStripVectors = 4;
#endif

TANDEM_INLINE Vec load(const float* p) { return *reinterpret_cast<const VecU*>(p); }
TANDEM_INLINE void store(float* p, Vec v) { *reinterpret_cast<VecU*>(p) = v; }
TANDEM_INLINE Vec splat(float x) { return x - Vec{}; }  // not x + 0: that would turn -0 into 0 and cost an addition
TANDEM_INLINE Vec maximum(Vec a, Vec b) { return a > b ? a : b; }

// Half precision, as the cache stores it.
#if TANDEM_LANES == 16
// The zero-masked forms with all lanes on: GCC 12 warns about its own plain ones.
TANDEM_INLINE Vec load(const uint16_t* p) {
  return (Vec)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
TANDEM_INLINE void store(uint16_t* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_maskz_cvtps_ph(0xffff, (__m512)v, _MM_FROUND_TO_NEAREST_INT));
}
#elif TANDEM_LANES == 8
TANDEM_INLINE Vec load(const uint16_t* p) {
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
TANDEM_INLINE void store(uint16_t* p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__aarch64__)
TANDEM_INLINE Vec load(const uint16_t* p) { return (Vec)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
TANDEM_INLINE void store(uint16_t* p, Vec v) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)v))); }
#else
// Bit arithmetic: shifting the exponent and mantissa into place leaves a float 2^112 too small, subnormals included.
TANDEM_INLINE Vec load(const uint16_t* p) {
  typedef uint16_t Half4 __attribute__((vector_size(8), aligned(2), may_alias));
  typedef uint32_t Word4 __attribute__((vector_size(16)));
  const Word4 h = __builtin_convertvector(*reinterpret_cast<const Half4*>(p), Word4);
  const Vec magnitude = (Vec)((h & 0x7fffu) << 13) * 0x1.0p112f;
  return (Vec)((Word4)magnitude | ((h & 0x8000u) << 16));
}
TANDEM_INLINE uint16_t to_half(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);   // NaN
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to infinity
  if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 puts the rounded bits at the bottom of the mantissa
    const float shifted = __builtin_bit_cast(float, magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (__builtin_bit_cast(uint32_t, shifted) - 0x3f000000u));
  }
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13));
}
TANDEM_INLINE void store(uint16_t* p, Vec v) {
  for (int i = 0; i < kLanes; ++i) p[i] = to_half(v[i]);
}
#endif

// Bytes, as floats.
typedef int8_t Bytes __attribute__((vector_size(TANDEM_LANES)));
typedef int8_t BytesU __attribute__((vector_size(TANDEM_LANES), aligned(1), may_alias));
#if TANDEM_LANES == 16
TANDEM_INLINE Vec load(const int8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return (Vec)_mm512_maskz_cvtepi32_ps(0xffff, _mm512_maskz_cvtepi8_epi32(0xffff, bytes));
}
#elif TANDEM_LANES == 8
TANDEM_INLINE Vec load(const int8_t* p) {
  return (Vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
#else
TANDEM_INLINE Vec load(const int8_t* p) {
  return __builtin_convertvector(__builtin_convertvector(*reinterpret_cast<const BytesU*>(p), Int), Vec);
}
#endif

constexpr float kRounder =
    12582912.0f;  // 1.5 * 2^23: adding it rounds |x| < 2^22 to an integer in the low mantissa bits

// The next integer from x up.
TANDEM_INLINE Vec ceiling(Vec x) {
  const Vec n = (x + kRounder) - kRounder;
  return n < x ? n + 1.0f : n;
}

// 2^(x - base) for an integer `base` and x - base <= 1; at most 1e-38 where it is below 2^-125, never subnormal: a
// multiplication with such a number takes a hundred times as long on some CPUs. Relative error 1e-7; 3e-6 when
// `coarse`. `base` changes nothing but the exponent: results for two bases differ by exactly a power of two.
TANDEM_INLINE Vec power2(Vec x, Vec base, bool coarse) {
#if TANDEM_LANES == 16
  const Vec n = (Vec)_mm512_maskz_roundscale_ps(0xffff, (__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const Vec n = (x + kRounder) - kRounder;
#endif
  const Vec r = x - n;
  Vec p;
  if (coarse) {
    p = r * 9.5701014340e-03f + 5.5917860282e-02f;
    p = p * r + 2.4024744840e-01f;
    p = p * r + 6.9312181474e-01f;
    p = p * r + 9.9999926144e-01f;
  } else {
    p = r * 1.3276471519e-03f + 9.6755413307e-03f;
    p = p * r + 5.5507132750e-02f;
    p = p * r + 2.4022119724e-01f;
    p = p * r + 6.9314696706e-01f;
    p = p * r + 1.0f;
  }
#if TANDEM_LANES == 16
  const Vec exponent = n - base;
  const __mmask16 normal = _mm512_cmp_ps_mask((__m512)exponent, (__m512)splat(-125.0f), _CMP_GE_OQ);
  return (Vec)_mm512_maskz_scalef_ps(normal, (__m512)p, (__m512)exponent);
#else
  const Vec exponent = maximum(n - base, splat(-126.0f));
  return p * (Vec)(((Int)(exponent + kRounder) << 23) + 0x3f800000);
#endif
}

// exp(x) for x <= 88; 1e-38 below -87. About 1 ulp.
TANDEM_INLINE Vec exponential(Vec x) {
  x = maximum(x, splat(-87.0f));
  const Vec shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the low mantissa bits become round(x / ln 2)
  const Vec n = shifted - 12582912.0f;
  const Vec r = x - n * 0.693145752f - n * 1.42860677e-6f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  return p * (Vec)(((Int)shifted << 23) + 0x3f800000);
}

// Sums (or maxima) over the lanes.
TANDEM_INLINE Vec4 quarter(Vec v, int i) {
  Vec4 out;
  __builtin_memcpy(&out, reinterpret_cast<const char*>(&v) + 16 * i, 16);
  return out;
}
TANDEM_INLINE Vec4 fold4(Vec v) {
#if TANDEM_LANES == 16
  return (quarter(v, 0) + quarter(v, 1)) + (quarter(v, 2) + quarter(v, 3));
#elif TANDEM_LANES == 8
  return quarter(v, 0) + quarter(v, 1);
#else
  return v;
#endif
}
TANDEM_INLINE float sum(Vec v) {
  const Vec4 s = fold4(v);
  return (s[0] + s[1]) + (s[2] + s[3]);
}
TANDEM_INLINE float largest(Vec v) {
  float best = v[0];
  for (int i = 1; i < kLanes; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

// {sum(a), sum(b), sum(c), sum(d)} by shuffles that stay inside 128-bit lanes, which every instruction set has cheaply.
#if TANDEM_LANES == 16
#define TANDEM_SHUFFLE(a, b, i, j, k, l)                                                                          \
  __builtin_shufflevector(a, b, i, j, k + 16, l + 16, i + 4, j + 4, k + 20, l + 20, i + 8, j + 8, k + 24, l + 24, \
                          i + 12, j + 12, k + 28, l + 28)
#elif TANDEM_LANES == 8
#define TANDEM_SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k + 8, l + 8, i + 4, j + 4, k + 12, l + 12)
#else
#define TANDEM_SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k + 4, l + 4)
#endif
TANDEM_INLINE Vec4 sums(Vec a, Vec b, Vec c, Vec d) {
  const Vec ab = TANDEM_SHUFFLE(a, b, 0, 1, 0, 1) + TANDEM_SHUFFLE(a, b, 2, 3, 2, 3);  // a02 a13 b02 b13
  const Vec cd = TANDEM_SHUFFLE(c, d, 0, 1, 0, 1) + TANDEM_SHUFFLE(c, d, 2, 3, 2, 3);
  return fold4(TANDEM_SHUFFLE(ab, cd, 0, 2, 0, 2) + TANDEM_SHUFFLE(ab, cd, 1, 3, 1, 3));
}
