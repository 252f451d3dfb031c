// The target is set after the headers, as in kernels_<isa>.cc. Tile instructions are written as assembly with all that
// they read and write: the intrinsics of GCC 12 hide it, so that it drops or moves the stores to a tile's memory.
#include "kernels/linear_amx.h"

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

#include "kernels/linear_impl.h"

constexpr int kSide = kLinearTile;   // rows, and outputs, of a tile
constexpr int64_t kTileInputs = 64;  // of a tile of rows or of weights
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
  int64_t offset = 0;  // from those of the group's first outputs

  Column(const PackedMatrix& matrix, int64_t output) : offset(output % matrix.group() * 4) {
    const std::byte* group = matrix.data + output / matrix.group() * matrix.group_bytes();
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

// Weights that will be unpacked next, to be brought nearer little by little: they come from memory.
struct Ahead {
  const std::byte* from = nullptr;
  const std::byte* end = nullptr;
  int64_t lines = 0;  // at a time

  void fetch() {
    for (int64_t i = 0; i < lines && from < end; ++i, from += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(from), _MM_HINT_T1);
    }
  }
};

// Adds the products of 32 rows (16 when !Both) and 32 outputs over `count` inputs to `sums`, which begin as 0.
template <bool Both>
void multiply_block(const uint8_t* rows, int64_t stride, const Scratch& scratch, int64_t count, bool begin,
                    int32_t* sums, Ahead& ahead) {
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
    ahead.fetch();
  }
  store_tile<0>(sums, kSumBytes), store_tile<1>(sums + kSide, kSumBytes);
  if (Both) {
    store_tile<2>(sums + kSide * kStrip, kSumBytes), store_tile<3>(sums + kSide * kStrip + kSide, kSumBytes);
  }
}

// 32 outputs from `output` on, of up to kMostLinearBlock rows.
void multiply_strip(const PackedMatrix& matrix, const ByteRows& in, int rows, int64_t output, bool last,
                    Scratch& scratch, float* out, int64_t out_stride) {
  const Column columns[2] = {{matrix, output}, {matrix, output + kSide}};
  const int shift = matrix.bits == 4 ? 4 : 0;
  for (int64_t input = 0; input < matrix.inputs; input += kDepth) {
    const int64_t left = matrix.inputs - input, count = left < kDepth ? left : kDepth;
    for (int i = 0; i < 2; ++i) unpack(matrix, columns[i], input, count, scratch.weights[i][0]);
    // The first strip of a group fetches for all of its outputs, the last for the next group.
    const bool first = output % matrix.group() == 0, final = (output + kStrip) % matrix.group() == 0;
    const int64_t bytes = kDepth * matrix.group() * matrix.bits / 8;
    Ahead ahead;
    if (first && left > kDepth) ahead.from = columns[0].weights + (input + kDepth) * matrix.group() * matrix.bits / 8;
    if (final && left <= kDepth && !last) ahead.from = columns[0].weights - columns[0].offset + matrix.group_bytes();
    if (ahead.from != nullptr) {
      const int64_t steps = (rows + 2 * kSide - 1) / (2 * kSide) * (count / kTileInputs);
      ahead.end = ahead.from + bytes;
      ahead.lines = (bytes / 64 + steps - 1) / steps;
    }
    for (int row = 0; row < rows; row += 2 * kSide) {
      const int some = rows - row < 2 * kSide ? rows - row : 2 * kSide;
      const auto multiply_some = some > kSide ? multiply_block<true> : multiply_block<false>;
      multiply_some(in.values + row * in.stride + input, in.stride, scratch, count, input == 0, scratch.sums[row],
                    ahead);
      if (left > kDepth) continue;
      for (int r = row; r < row + some; ++r) {
        for (int i = 0; i < 2; ++i) {
          finish(_mm512_load_si512(scratch.sums[r] + i * kSide), shift, columns[i].sums, columns[i].scales, in.zeros[r],
                 in.scales[r], out + r * out_stride + i * kSide);
        }
      }
    }
  }
}

void multiply_groups(const PackedMatrix& matrix, const ByteRows& in, int rows, int64_t first, int64_t last, float* out,
                     int64_t out_stride) {
  Scratch scratch;
  const int64_t end = last * matrix.group();
  for (int64_t output = first * matrix.group(); output < end; output += kStrip, out += kStrip) {
    multiply_strip(matrix, in, rows, output, output + kStrip == end, scratch, out, out_stride);
  }
}

// ---- a scale for every block of inputs: groups of 16 outputs, whose integers leave the tile after every block

// Working memory of one call. Tiles of 32 inputs have 8 rows.
struct alignas(64) BlockScratch {
  std::byte weights[kDepth * kSide];
  int32_t integers[2][kSide][kSide];
  float sums[kMostLinearBlock][kSide];
};

// The weights of a group, `count` inputs from `input` on, as rows of 4 inputs each, 16 times as large.
void unpack_blocks(const PackedMatrix& matrix, const std::byte* group, int64_t input, int64_t count, std::byte* to) {
  const __m512i high = _mm512_set1_epi8(static_cast<char>(0xf0));
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  for (int64_t k = input; k < input + count; k += 16, to += 256) {
    const std::byte* from = group + 64 + k * 8 + k / matrix.block * kBlockScales;
    const __m512i w0 = bytes_at(from), w1 = bytes_at(from + 64);
    const __m512i l0 = shifted(w0) & high, l1 = shifted(w1) & high, h0 = w0 & high, h1 = w1 & high;
    _mm512_store_si512(to, _mm512_permutex2var_epi32(l0, even, l1));
    _mm512_store_si512(to + 64, _mm512_permutex2var_epi32(l0, odd, l1));
    _mm512_store_si512(to + 128, _mm512_permutex2var_epi32(h0, even, h1));
    _mm512_store_si512(to + 192, _mm512_permutex2var_epi32(h0, odd, h1));
  }
}

// Integers of one block for 16 rows, by tile Sums, to memory.
template <int64_t Block, int Sums>
TANDEM_INLINE void multiply_block_of(const uint8_t* rows, int64_t stride, const std::byte* weights, int32_t* integers) {
  zero<Sums>();
  load_tile<4>(rows, stride), load_tile<6>(weights, 64);
  multiply<Sums, 4, 6>();
  if (Block == 128) {
    load_tile<5>(rows + 64, stride), load_tile<7>(weights + kTileBytes, 64);
    multiply<Sums, 5, 7>();
  }
  store_tile<Sums>(integers, 64);
}

TANDEM_INLINE void take_block(const int32_t (*integers)[kSide], const std::byte* scales, __m512 (&totals)[kSide]) {
  const __m512 scale = block_scales(scales);
#pragma GCC unroll 16
  for (int r = 0; r < kSide; ++r) totals[r] = add_scaled(_mm512_load_si512(integers[r]), scale, totals[r]);
}

// Adds `count` inputs of 16 rows and 16 outputs to `sums`, which begin as 0. A block's integers are taken up after the
// next block is on its way.
template <int64_t Block>
void add_blocks(const uint8_t* rows, int64_t stride, const std::byte* scales, int64_t count, bool begin,
                BlockScratch& scratch, float (*sums)[kSide]) {
  constexpr int64_t kScaleStride = Block * 8 + kBlockScales, kWeights = Block * kSide;
  __m512 totals[kSide];
#pragma GCC unroll 16
  for (int r = 0; r < kSide; ++r) totals[r] = _mm512_load_ps(sums[r]);
  if (begin) {
#pragma GCC unroll 16
    for (int r = 0; r < kSide; ++r) totals[r] = _mm512_setzero_ps();
  }
  const std::byte* weights = scratch.weights;
  multiply_block_of<Block, 0>(rows, stride, weights, scratch.integers[0][0]);
  const int64_t blocks = count / Block;
  for (int64_t block = 1; block < blocks; block += 2) {
    multiply_block_of<Block, 1>(rows + block * Block, stride, weights + block * kWeights, scratch.integers[1][0]);
    take_block(scratch.integers[0], scales + (block - 1) * kScaleStride, totals);
    if (block + 1 < blocks) {
      const int64_t next = block + 1;
      multiply_block_of<Block, 0>(rows + next * Block, stride, weights + next * kWeights, scratch.integers[0][0]);
    }
    take_block(scratch.integers[1], scales + block * kScaleStride, totals);
  }
  if (blocks % 2 != 0) take_block(scratch.integers[0], scales + (blocks - 1) * kScaleStride, totals);
#pragma GCC unroll 16
  for (int r = 0; r < kSide; ++r) _mm512_store_ps(sums[r], totals[r]);
}

// A group of 16 outputs, of up to kMostLinearBlock rows.
template <int64_t Block>
void multiply_group(const PackedMatrix& matrix, const ByteRows& in, int rows, const std::byte* group,
                    BlockScratch& scratch, float* out, int64_t out_stride) {
  for (int64_t input = 0; input < matrix.inputs; input += kDepth) {
    const int64_t left = matrix.inputs - input, count = left < kDepth ? left : kDepth;
    unpack_blocks(matrix, group, input, count, scratch.weights);
    const std::byte* scales = group + 64 + (input / Block + 1) * Block * 8 + input / Block * kBlockScales;
    for (int row = 0; row < rows; row += kSide) {
      add_blocks<Block>(in.values + row * in.stride + input, in.stride, scales, count, input == 0, scratch,
                        &scratch.sums[row]);
      if (left > kDepth) continue;
      for (int r = row; r < row + kSide && r < rows; ++r) {
        finish_blocks(_mm512_load_ps(scratch.sums[r]), group, in.zeros[r], in.scales[r], out + r * out_stride);
      }
    }
  }
}

template <int64_t Block>
void block_groups(const PackedMatrix& matrix, const ByteRows& in, int rows, int64_t first, int64_t last, float* out,
                  int64_t out_stride) {
  BlockScratch scratch;
  for (int64_t group = first; group < last; ++group, out += kSide) {
    multiply_group<Block>(matrix, in, rows, matrix.data + group * matrix.group_bytes(), scratch, out, out_stride);
  }
}

}  // namespace tiles

using namespace tiles;

bool linear_amx_available(const PackedMatrix& matrix) {
  const bool known =
      matrix.block == 0 ? matrix.group() == 64 : matrix.block == 32 || matrix.block == 64 || matrix.block == 128;
  return known && matrix.tiles;
}

int linear_amx_block(const PackedMatrix& matrix) {
  const int64_t fitting = kRowBytes / matrix.inputs / (2 * kSide) * (2 * kSide);
  return fitting < 2 * kSide ? 2 * kSide : fitting > kMostLinearBlock ? kMostLinearBlock : static_cast<int>(fitting);
}

void linear_amx(const PackedMatrix& matrix, const ByteRows& in, int rows, int64_t first, int64_t last, float* out,
                int64_t out_stride) {
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) config.row_bytes[tile] = 64, config.rows[tile] = kSide;
  if (matrix.block == 32) config.row_bytes[4] = 32, config.rows[6] = 8;
  configure(config);
  const int most = linear_amx_block(matrix);
  for (int row = 0; row < rows; row += most) {
    const int count = rows - row < most ? rows - row : most;
    if (matrix.block == 0) {
      multiply_groups(matrix, in.from(row), count, first, last, out + row * out_stride, out_stride);
    } else {
      const auto groups = matrix.block == 32   ? block_groups<32>
                          : matrix.block == 64 ? block_groups<64>
                                               : block_groups<128>;
      groups(matrix, in.from(row), count, first, last, out + row * out_stride, out_stride);
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
int linear_amx_block(const PackedMatrix&) { return kLinearTile; }
void linear_amx(const PackedMatrix&, const ByteRows&, int, int64_t, int64_t, float*, int64_t) {}
}  // namespace tandem
#endif
