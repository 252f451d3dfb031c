// The functions of linear.h for AVX-512 with VNNI; the target is set here, after the headers, as in kernels_<isa>.cc.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>
#include <span>

#include "kernels/linear.h"
#include "kernels/linear_amx.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
#endif

#define TANDEM_LANES 16

// Uses no inline function of the standard library, which could end up in the program compiled for the wrong CPU.
namespace tandem {
namespace linear_vnni {

#include "kernels/linear_impl.h"

constexpr int kBlock = 24;    // rows at a time: whole tiles of any of the kernels here
constexpr int kAhead = 1024;  // bytes to prefetch: enough to cross into the next page before it is needed

TANDEM_INLINE void prefetch(const std::byte* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p + kAhead), _MM_HINT_T0);
}

template <class T>
TANDEM_INLINE T read(const uint8_t* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

// The pragmas are for GCC 12: without them it keeps the arrays of sums in memory.

TANDEM_INLINE __m512i even_lanes() {
  return _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}

TANDEM_INLINE __m512i odd_lanes() {
  return _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

// Partial sums of outputs 0-7 and 8-15, two each, to 16 sums.
TANDEM_INLINE __m512i paired(__m512i left, __m512i right) {
  return _mm512_add_epi32(_mm512_permutex2var_epi32(left, even_lanes(), right),
                          _mm512_permutex2var_epi32(left, odd_lanes(), right));
}

TANDEM_INLINE __m512 paired(__m512 left, __m512 right) {
  return _mm512_add_ps(_mm512_permutex2var_ps(left, even_lanes(), right),
                       _mm512_permutex2var_ps(left, odd_lanes(), right));
}

// One group of 16 outputs for R rows.
template <int R>
void group4(const std::byte* w, const PackedMatrix& matrix, const ByteRows& in, int row, float* out,
            int64_t out_stride) {
  const std::byte* sums = w;
  w += 64;
  __m512i left[R], right[R];  // outputs 0-7 and 8-15, two partial sums each
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) left[r] = right[r] = _mm512_setzero_si512();
  const __m512i high = _mm512_set1_epi8(static_cast<char>(0xf0));
  const uint8_t* a = in.values + row * in.stride;
  for (int64_t k = 0; k < matrix.inputs; k += 16, w += 128) {
    const __m512i w0 = bytes_at(w), w1 = bytes_at(w + 64);
    prefetch(w);
    prefetch(w + 64);
    const __m512i l0 = shifted(w0) & high, h0 = w0 & high;
    const __m512i l1 = shifted(w1) & high, h1 = w1 & high;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512i first = _mm512_set1_epi64(read<int64_t>(a + r * in.stride + k));
      const __m512i second = _mm512_set1_epi64(read<int64_t>(a + r * in.stride + k + 8));
      left[r] = _mm512_dpbusd_epi32(left[r], first, l0);
      right[r] = _mm512_dpbusd_epi32(right[r], first, l1);
      left[r] = _mm512_dpbusd_epi32(left[r], second, h0);
      right[r] = _mm512_dpbusd_epi32(right[r], second, h1);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const __m512i sum = paired(left[r], right[r]);
    finish(sum, 4, sums, w, in.zeros[row + r], in.scales[row + r], out + r * out_stride);
  }
}

// Weights of 32 inputs, 16 times too large: 128 bytes hold them for every 16 inputs.
struct Weights32 {
  __m512i l0, l1, h0, h1, l2, l3, h2, h3;
};

TANDEM_INLINE Weights32 weights_32(const std::byte* w) {
  const __m512i high = _mm512_set1_epi8(static_cast<char>(0xf0));
  const __m512i w0 = bytes_at(w), w1 = bytes_at(w + 64), w2 = bytes_at(w + 128), w3 = bytes_at(w + 192);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) prefetch(w + 64 * i);
  return {shifted(w0) & high, shifted(w1) & high, w0 & high, w1 & high,
          shifted(w2) & high, shifted(w3) & high, w2 & high, w3 & high};
}

// Adds their products with a row's `bytes` to its partial sums.
TANDEM_INLINE void add_32_inputs(const Weights32& w, const uint8_t* bytes, __m512i* left, __m512i* right) {
  const __m512i a0 = _mm512_set1_epi64(read<int64_t>(bytes)), a1 = _mm512_set1_epi64(read<int64_t>(bytes + 8));
  const __m512i a2 = _mm512_set1_epi64(read<int64_t>(bytes + 16)), a3 = _mm512_set1_epi64(read<int64_t>(bytes + 24));
  __m512i one = _mm512_dpbusd_epi32(*left, a0, w.l0), other = _mm512_dpbusd_epi32(*right, a0, w.l1);
  one = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_dpbusd_epi32(one, a1, w.h0), a2, w.l2), a3, w.h2);
  other = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_dpbusd_epi32(other, a1, w.h1), a2, w.l3), a3, w.h3);
  *left = one, *right = other;
}

// One group of 16 outputs for R rows, with a scale for every block: integers within a block, floats from block to
// block. `Short`: blocks of 32, whose integers need no registers from one load of weights to the next.
template <int R, bool Short>
void group4_blocks(const std::byte* w, const PackedMatrix& matrix, const ByteRows& in, int row, float* out,
                   int64_t out_stride) {
  const std::byte* sums = w;
  w += 64;
  __m512 totals[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) totals[r] = _mm512_setzero_ps();
  const uint8_t* a = in.values + row * in.stride;
  const int64_t block = Short ? 32 : matrix.block;
  for (int64_t at = 0; at < matrix.inputs; at += block, w += kBlockScales) {
    const __m512 scales = block_scales(w + block * 8);
    __m512i left[R], right[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) left[r] = right[r] = _mm512_setzero_si512();
    for (int64_t k = at; k < at + block; k += 32, w += 256) {
      const Weights32 weights = weights_32(w);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) add_32_inputs(weights, a + k + r * in.stride, &left[r], &right[r]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) totals[r] = add_scaled(paired(left[r], right[r]), scales, totals[r]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    finish_blocks(totals[r], sums, in.zeros[row + r], in.scales[row + r], out + r * out_stride);
  }
}

// Scales of one block of a group twice each, as partial sums lie: of outputs 0-7 and of 8-15.
struct DoubledScales {
  __m512 left, right;
};

// A bfloat16 is the upper half of a float.
TANDEM_INLINE DoubledScales doubled_halves(const std::byte* p) {
  const __m512i halves = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  const __m512i first = _mm512_setr_epi32(0, 0, 1 << 16, 1 << 16, 2 << 16, 2 << 16, 3 << 16, 3 << 16, 4 << 16, 4 << 16,
                                          5 << 16, 5 << 16, 6 << 16, 6 << 16, 7 << 16, 7 << 16);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8 << 16));
  constexpr __mmask32 kUpper = 0xaaaaaaaa;
  return {_mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(kUpper, first, halves)),
          _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(kUpper, second, halves))};
}

// 3 bits of an exponent and 5 of a significand, which follow each other in a float as well.
TANDEM_INLINE DoubledScales doubled_bytes(const std::byte* p) {
  const __m512i wide = _mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m512i scales = (__m512i)(((Int)wide << 18) + 0x3f800000);
  const __m512i first = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  const __m512i second = _mm512_setr_epi32(8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15);
  return {_mm512_castsi512_ps(_mm512_maskz_permutexvar_epi32(0xffff, first, scales)),
          _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi32(0xffff, second, scales))};
}

// The same where no tiles must give the same bits: the partial sums stay apart until the last block. On Zen 4 this
// makes 180 GMAC/s per thread with blocks of 32, and pairing them in every block 155 (`bench_kernels products 1`).
// `Bytes`: byte_scales; every result is a power of two smaller until the end, which changes no bit.
template <int R, bool Short, bool Bytes>
void group4_pairs(const std::byte* w, const PackedMatrix& matrix, const ByteRows& in, int row, float* out,
                  int64_t out_stride) {
  const std::byte* sums = w;
  w += 64;
  __m512 left[R], right[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) left[r] = right[r] = _mm512_setzero_ps();
  const uint8_t* a = in.values + row * in.stride;
  const int64_t block = Short ? 32 : matrix.block;
  for (int64_t at = 0; at < matrix.inputs; at += block, w += Bytes ? kBlockScales / 2 : kBlockScales) {
    const DoubledScales scales = Bytes ? doubled_bytes(w + block * 8) : doubled_halves(w + block * 8);
    __m512i one[R], other[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) one[r] = other[r] = _mm512_setzero_si512();
    for (int64_t k = at; k < at + block; k += 32, w += 256) {
      const Weights32 weights = weights_32(w);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        add_32_inputs(weights, a + k + r * in.stride, &one[r], &other[r]);
        if (Short) {
          left[r] = add_scaled(one[r], scales.left, left[r]);
          right[r] = add_scaled(other[r], scales.right, right[r]);
        }
      }
    }
    if (Short) continue;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      left[r] = add_scaled(one[r], scales.left, left[r]);
      right[r] = add_scaled(other[r], scales.right, right[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    __m512 sum = paired(left[r], right[r]);
    if (Bytes) sum = _mm512_mul_ps(sum, _mm512_loadu_ps(w));
    finish_blocks(sum, sums, in.zeros[row + r], in.scales[row + r], out + r * out_stride);
  }
}

// One group of 64 outputs for R rows.
template <int R>
void group8(const std::byte* w, const PackedMatrix& matrix, const ByteRows& in, int row, float* out,
            int64_t out_stride) {
  const std::byte* sums = w;
  w += 256;
  __m512i a0[R], a1[R], a2[R], a3[R];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) a0[r] = a1[r] = a2[r] = a3[r] = _mm512_setzero_si512();
  const uint8_t* a = in.values + row * in.stride;
  for (int64_t k = 0; k < matrix.inputs; k += 4, w += 256) {
    const __m512i w0 = bytes_at(w), w1 = bytes_at(w + 64), w2 = bytes_at(w + 128), w3 = bytes_at(w + 192);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) prefetch(w + 64 * i);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const __m512i four = _mm512_set1_epi32(read<int32_t>(a + r * in.stride + k));
      a0[r] = _mm512_dpbusd_epi32(a0[r], four, w0);
      a1[r] = _mm512_dpbusd_epi32(a1[r], four, w1);
      a2[r] = _mm512_dpbusd_epi32(a2[r], four, w2);
      a3[r] = _mm512_dpbusd_epi32(a3[r], four, w3);
    }
  }
  alignas(64) int32_t totals[R][64];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    _mm512_store_si512(totals[r], a0[r]);
    _mm512_store_si512(totals[r] + 16, a1[r]);
    _mm512_store_si512(totals[r] + 32, a2[r]);
    _mm512_store_si512(totals[r] + 48, a3[r]);
  }
  for (int r = 0; r < R; ++r) {
    for (int i = 0; i < 64; i += 16) {
      finish(_mm512_load_si512(totals[r] + i), 0, sums + 4 * i, w + 4 * i, in.zeros[row + r], in.scales[row + r],
             out + r * out_stride + i);
    }
  }
}

// One group of 64 outputs in 4 bits for R rows.
template <int R>
void group4_wide(const std::byte* w, const PackedMatrix& matrix, const ByteRows& in, int row, float* out,
                 int64_t out_stride) {
  const std::byte* sums = w;
  w += 256;
  __m512i totals[R][4];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) totals[r][0] = totals[r][1] = totals[r][2] = totals[r][3] = _mm512_setzero_si512();
  const __m512i high = _mm512_set1_epi8(static_cast<char>(0xf0));
  const uint8_t* a = in.values + row * in.stride;
  for (int64_t k = 0; k < matrix.inputs; k += 8, w += 256) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      prefetch(w + 64 * i);
      const __m512i both = bytes_at(w + 64 * i);
      const __m512i l = shifted(both) & high, h = both & high;
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const __m512i first = _mm512_set1_epi32(read<int32_t>(a + r * in.stride + k));
        const __m512i second = _mm512_set1_epi32(read<int32_t>(a + r * in.stride + k + 4));
        totals[r][i] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(totals[r][i], first, l), second, h);
      }
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      finish(totals[r][i], 4, sums + 64 * i, w + 64 * i, in.zeros[row + r], in.scales[row + r],
             out + r * out_stride + 16 * i);
    }
  }
}

using Group = void (*)(const std::byte*, const PackedMatrix&, const ByteRows&, int, float*, int64_t);
constexpr Group kGroups4[] = {group4<1>, group4<2>, group4<3>, group4<4>, group4<5>, group4<6>, group4<7>, group4<8>};
constexpr Group kShort4[] = {group4_blocks<1, true>, group4_blocks<2, true>, group4_blocks<3, true>,
                             group4_blocks<4, true>, group4_blocks<5, true>, group4_blocks<6, true>,
                             group4_blocks<7, true>, group4_blocks<8, true>};
template <bool Bytes>
constexpr Group kShortPairs4[] = {group4_pairs<1, true, Bytes>, group4_pairs<2, true, Bytes>,
                                  group4_pairs<3, true, Bytes>, group4_pairs<4, true, Bytes>,
                                  group4_pairs<5, true, Bytes>, group4_pairs<6, true, Bytes>,
                                  group4_pairs<7, true, Bytes>, group4_pairs<8, true, Bytes>};
template <bool Bytes>
constexpr Group kLongPairs4[] = {group4_pairs<1, false, Bytes>, group4_pairs<2, false, Bytes>,
                                 group4_pairs<3, false, Bytes>, group4_pairs<4, false, Bytes>,
                                 group4_pairs<5, false, Bytes>, group4_pairs<6, false, Bytes>};
constexpr Group kLong4[] = {group4_blocks<1, false>, group4_blocks<2, false>, group4_blocks<3, false>,
                            group4_blocks<4, false>, group4_blocks<5, false>, group4_blocks<6, false>};
constexpr Group kWide4[] = {group4_wide<1>, group4_wide<2>, group4_wide<3>,
                            group4_wide<4>, group4_wide<5>, group4_wide<6>};
constexpr Group kGroups8[] = {group8<1>, group8<2>, group8<3>, group8<4>, group8<5>, group8<6>};

// The kernels for 1, 2, ... rows of a format.
std::span<const Group> kernels_for(const PackedMatrix& matrix) {
  if (matrix.bits == 8) return kGroups8;
  if (matrix.wide) return kWide4;
  if (matrix.block == 0) return kGroups4;
  if (matrix.tiles) return matrix.block == 32 ? std::span<const Group>(kShort4) : kLong4;
  if (matrix.byte_scales) return matrix.block == 32 ? std::span<const Group>(kShortPairs4<true>) : kLongPairs4<true>;
  return matrix.block == 32 ? std::span<const Group>(kShortPairs4<false>) : kLongPairs4<false>;
}

float mean_square(const float* in, int64_t n) {
  Vec sums[4] = {};
  for (int64_t i = 0; i < n; i += 64) {
    for (int j = 0; j < 4; ++j) {
      const Vec x = load(in + i + 16 * j);
      sums[j] += x * x;
    }
  }
  return sum((sums[0] + sums[1]) + (sums[2] + sums[3])) / static_cast<float>(n);
}

TANDEM_INLINE Vec tanh_of(Vec x) {
  // 1 - 2 / (e^2x + 1); e^2x may overflow to the largest float, which gives 1.
  const Vec limited = maximum(splat(-15.0f), -maximum(splat(-15.0f), -x));
  return 1.0f - 2.0f / (exponential(2.0f * limited) + 1.0f);
}

TANDEM_INLINE __mmask16 lanes(int64_t count) { return static_cast<__mmask16>(count >= 16 ? 0xffff : (1 << count) - 1); }

}  // namespace linear_vnni

using namespace linear_vnni;

void quantise_row(const float* in, int64_t n, int row, const ByteRows& out) {
  Vec low = {}, high = {};  // 0 must be in the range
  for (int64_t i = 0; i < n; i += 16) {
    const Vec x = load(in + i);
    low = (Vec)_mm512_maskz_min_ps(0xffff, (__m512)low, (__m512)x);
    high = (Vec)_mm512_maskz_max_ps(0xffff, (__m512)high, (__m512)x);
  }
  const float least = -largest(-low), most = largest(high);
  const float scale = least == most ? 1.0f : 255.0f / (most - least);
  // The zero point that makes the smaller error at the ends of the range.
  const float low_end = least * scale, high_end = most * scale;
  const float zero = -128.0f + low_end + 127.0f + high_end > 0.0f ? -128.0f - low_end : 127.0f - high_end;
  const float limited = zero < -128.0f ? -128.0f : zero > 127.0f ? 127.0f : zero;
  const auto nudged = static_cast<int32_t>(__builtin_lrintf(limited));
  uint8_t* values = out.values + row * out.stride;
  const __m512 factor = _mm512_set1_ps(scale);
  const __m512i offset = _mm512_set1_epi32(nudged);
  for (int64_t i = 0; i < n; i += 16) {
    const __m512i q =
        _mm512_add_epi32(_mm512_maskz_cvtps_epi32(0xffff, _mm512_mul_ps(_mm512_loadu_ps(in + i), factor)), offset);
    const __m128i bytes = _mm512_maskz_cvtsepi32_epi8(0xffff, q);  // saturates to -128 ... 127
    _mm_storeu_si128(reinterpret_cast<__m128i*>(values + i),
                     _mm_xor_si128(bytes, _mm_set1_epi8(static_cast<char>(0x80))));
  }
  out.scales[row] = 1.0f / scale;
  out.zeros[row] = nudged + 128;
}

int linear_block(const PackedMatrix& matrix) {
  return linear_amx_available(matrix) ? linear_amx_block(matrix) : kBlock;
}

void linear(const PackedMatrix& matrix, const ByteRows& in, int rows, int64_t first, int64_t last, float* out,
            int64_t out_stride) {
  if (rows >= kLinearTile && linear_amx_available(matrix))
    return linear_amx(matrix, in, rows, first, last, out, out_stride);
  const std::span<const Group> kernels = kernels_for(matrix);
  const int most = static_cast<int>(kernels.size());
  for (int64_t g = first; g < last; ++g) {
    const std::byte* w = matrix.data + g * matrix.group_bytes();
    for (int row = 0; row < rows; row += most) {
      const int count = rows - row < most ? rows - row : most;
      kernels[count - 1](w, matrix, in, row, out + row * out_stride + (g - first) * matrix.group(), out_stride);
    }
  }
}

void rms_norm(const float* in, const float* weight, float epsilon, int64_t n, float* out) {
  const float inverse = 1.0f / __builtin_sqrtf(mean_square(in, n) + epsilon);
  for (int64_t i = 0; i < n; i += 16) store(out + i, load(in + i) * inverse * load(weight + i));
}

void add_normed(const float* in, const float* weight, float epsilon, float scale, int64_t n, float* inout) {
  const float inverse = 1.0f / __builtin_sqrtf(mean_square(in, n) + epsilon);
  for (int64_t i = 0; i < n; i += 16) {
    store(inout + i, (load(inout + i) + load(in + i) * inverse * load(weight + i)) * scale);
  }
}

void gated_gelu(const float* up, int64_t n, float* gate) {
  for (int64_t i = 0; i < n; i += 16) {
    const Vec x = load(gate + i);
    const Vec inner = 0.797884561f * (x + 0.044715f * x * x * x);
    store(gate + i, 0.5f * x * (1.0f + tanh_of(inner)) * load(up + i));
  }
}

void soft_cap(float cap, int64_t n, float* inout) {
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 some = lanes(n - i);
    const Vec x = (Vec)_mm512_maskz_loadu_ps(some, inout + i);
    _mm512_mask_storeu_ps(inout + i, some, (__m512)(cap * tanh_of(x * (1.0f / cap))));
  }
}

}  // namespace tandem

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
