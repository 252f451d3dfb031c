// The target is set after the headers, as in kernels_<isa>.cc. Tile instructions are written as assembly with all that
// they read and write: the intrinsics of GCC 12 hide it, so that it drops or moves the stores to a tile's memory.
#include "kernels/linear_amx.h"

#include "base/cpu_features.h"

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

#define TANDEM_LANES 16

namespace tandem {
namespace tiles {

#include "kernels/simd.h"

#include "kernels/linear_impl.h"

constexpr int kSide = kAmxRows;         // rows, and outputs, of a tile
constexpr int64_t kTileInputs = 64;     // of a tile of rows or of weights
constexpr int64_t kTileBytes = 1024;
constexpr int64_t kDepth = 512;         // inputs at a time: their unpacked weights stay in the L1 cache
constexpr int64_t kRowBytes = 1 << 20;  // of rows that are multiplied with strip after strip: half of an L2 cache
constexpr int kStrip = 2 * kSide;       // outputs at a time

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

TANDEM_INLINE void configure(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
TANDEM_INLINE void release() { asm volatile("tilerelease" : : : "memory"); }

// Tiles 0 to 3: sums of rows (0, 1) by outputs (0, 1); 4 and 5: rows; 6 and 7: weights.
template <int T>
TANDEM_INLINE void zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(T));
}
template <int T>
TANDEM_INLINE void load_tile(const void* from, int64_t stride) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(T), "r"(from), "r"(stride) : "memory");
}
template <int T>
TANDEM_INLINE void store_tile(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(T), "r"(to), "r"(stride) : "memory");
}
template <int Sums, int Rows, int Weights>
TANDEM_INLINE void multiply() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(Rows), "i"(Weights));
}

// Working memory of one call.
struct alignas(64) Scratch {
  std::byte weights[2][kDepth / kTileInputs][kTileBytes];
  int32_t sums[kMostLinearBlock][kStrip];
};

// 16 outputs of a matrix.
struct Column {
  const std::byte* weights = nullptr;  // those of its first 4 (int4: 8) inputs; the next are 256 bytes further
  const std::byte* sums = nullptr;
  const std::byte* scales = nullptr;

  Column(const PackedMatrix& matrix, int64_t output) {
    const std::byte* group = matrix.data + output / matrix.group() * matrix.group_bytes();
    const int64_t offset = output % matrix.group() * 4;
    sums = group + offset;
    weights = group + matrix.group() * 4 + offset;
    scales = weights + matrix.group() * matrix.inputs * matrix.bits / 8;
  }
};

// The weights of a column, `count` inputs from `input` on, as tiles: 16 rows of 4 inputs each. int4 becomes 16 times as
// large, as in VNNI's kernels.
void unpack(const PackedMatrix& matrix, const Column& column, int64_t input, int64_t count, std::byte* to) {
  const std::byte* from = column.weights + input * matrix.bits / 32 * 256;
  if (matrix.bits == 8) {
    for (int64_t k = 0; k < count; k += 4, from += 256, to += 64) _mm512_store_si512(to, bytes_at(from));
    return;
  }
  const __m512i high = _mm512_set1_epi8(static_cast<char>(0xf0));
  for (int64_t k = 0; k < count; k += 8, from += 256, to += 128) {
    const __m512i both = bytes_at(from);
    _mm512_store_si512(to, shifted(both) & high);
    _mm512_store_si512(to + 64, both & high);
  }
}

// Adds the products of 32 rows (16 when !Both) and 32 outputs over `count` inputs to `sums`, which begin as 0.
template <bool Both>
void multiply_block(const uint8_t* rows, int64_t stride, const Scratch& scratch, int64_t count, bool begin,
                    int32_t* sums) {
  constexpr int64_t kSumBytes = kStrip * 4;
  if (begin) {
    zero<0>(), zero<1>();
    if (Both) zero<2>(), zero<3>();
  } else {
    load_tile<0>(sums, kSumBytes), load_tile<1>(sums + kSide, kSumBytes);
    if (Both) {
      load_tile<2>(sums + kSide * kStrip, kSumBytes), load_tile<3>(sums + kSide * kStrip + kSide, kSumBytes);
    }
  }
  for (int64_t k = 0; k < count / kTileInputs; ++k) {
    load_tile<4>(rows + k * kTileInputs, stride);
    load_tile<6>(scratch.weights[0][k], 64);
    multiply<0, 4, 6>();
    load_tile<7>(scratch.weights[1][k], 64);
    multiply<1, 4, 7>();
    if (Both) {
      load_tile<5>(rows + kSide * stride + k * kTileInputs, stride);
      multiply<2, 5, 6>();
      multiply<3, 5, 7>();
    }
  }
  store_tile<0>(sums, kSumBytes), store_tile<1>(sums + kSide, kSumBytes);
  if (Both) {
    store_tile<2>(sums + kSide * kStrip, kSumBytes), store_tile<3>(sums + kSide * kStrip + kSide, kSumBytes);
  }
}

// 32 outputs from `output` on, of up to kMostLinearBlock rows.
void multiply_strip(const PackedMatrix& matrix, const ByteRows& in, int rows, int64_t output, Scratch& scratch,
                    float* out, int64_t out_stride) {
  const Column columns[2] = {{matrix, output}, {matrix, output + kSide}};
  const int shift = matrix.bits == 4 ? 4 : 0;
  for (int64_t input = 0; input < matrix.inputs; input += kDepth) {
    const int64_t left = matrix.inputs - input, count = left < kDepth ? left : kDepth;
    for (int i = 0; i < 2; ++i) unpack(matrix, columns[i], input, count, scratch.weights[i][0]);
    for (int row = 0; row < rows; row += 2 * kSide) {
      const int some = rows - row > kSide ? 2 * kSide : kSide;
      const auto multiply_some = some > kSide ? multiply_block<true> : multiply_block<false>;
      multiply_some(in.values + row * in.stride + input, in.stride, scratch, count, input == 0, scratch.sums[row]);
      if (left > kDepth) continue;
      for (int r = row; r < row + some; ++r) {
        for (int i = 0; i < 2; ++i) {
          finish(_mm512_load_si512(scratch.sums[r] + i * kSide), shift, columns[i].sums, columns[i].scales,
                 matrix.group() * 4, in.zeros[r], in.scales[r], out + r * out_stride + i * kSide);
        }
      }
    }
  }
}

}  // namespace tiles

using namespace tiles;

bool linear_amx_available(const PackedMatrix& matrix) { return matrix.group() == 64 && amx_selected(); }

int linear_amx_block(const PackedMatrix& matrix) {
  const int64_t fitting = kRowBytes / matrix.inputs / (2 * kSide) * (2 * kSide);
  return fitting < 2 * kSide ? 2 * kSide : fitting > kMostLinearBlock ? kMostLinearBlock : static_cast<int>(fitting);
}

void linear_amx(const PackedMatrix& matrix, const ByteRows& in, int rows, int64_t first, int64_t last, float* out,
                int64_t out_stride) {
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) config.row_bytes[tile] = 64, config.rows[tile] = kSide;
  configure(config);
  Scratch scratch;
  const int block = linear_amx_block(matrix);
  const int64_t begin = first * matrix.group(), end = last * matrix.group();
  for (int row = 0; row < rows; row += block) {
    const int count = rows - row < block ? rows - row : block;
    for (int64_t output = begin; output < end; output += kStrip) {
      multiply_strip(matrix, in.from(row), count, output, scratch, out + row * out_stride + output - begin, out_stride);
    }
  }
  release();
}

}  // namespace tandem

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
namespace tandem {
bool linear_amx_available(const PackedMatrix&) { return false; }
int linear_amx_block(const PackedMatrix&) { return kAmxRows; }
void linear_amx(const PackedMatrix&, const ByteRows&, int, int64_t, int64_t, float*, int64_t) {}
}  // namespace tandem
#endif
