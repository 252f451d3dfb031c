// Products of rows with quantised matrices as pack.h lays them out for machines with VNNI or AMX. They compute the rows
// that there are, so that a step of 4 reads the weights at the speed of memory too. With many rows and VNNI they do 90
// to 96 % of the dot products that the CPU can do.
//
// A row is quantised as XNNPACK does it: asymmetric 8 bits over its own range. Integer sums are exact and the float
// operations of a row do not depend on the others: any number of rows gives the same bits.
//
// Packed int4 (per channel), groups of 16 outputs: int32 sums[16] (-16 * sum of the weights), then for every 16 inputs
// 16 outputs x 8 bytes (low nibbles: inputs 0-7, high: 8-15), float scales[16]. With a scale for each block of inputs:
// float sums[16] (-sum of weight * scale), for every block the same bytes and bfloat16 scales[16] (of 16 times the
// weights). With `byte_scales` those are uint8 scales[16], (1 + low 5 bits / 32) * 2^(high 3 bits), and the end is
// float units[16], powers of two that they are multiplied with. Packed int8, groups of 64: int32 sums[64] (-sum), for
// every 4 inputs 64 outputs x 4 bytes, float scales[64]. `wide` int4 per channel, for AMX, is in groups of 64 too:
// int32 sums[64]
// (-16 * sum), for every 8 inputs 64 outputs x 4 bytes (low nibbles: inputs 0-3, high: 4-7), then as int8.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tandem {

struct PackedMatrix {
  const std::byte* data = nullptr;
  int64_t inputs = 0;   // a multiple of 16
  int64_t outputs = 0;  // a multiple of group()
  int bits = 4;         // 4 or 8
  int64_t block = 0;    // inputs that share a scale, a multiple of 32 that divides `inputs`; 0: all. With int4 only
  bool wide = false;    // int4 without blocks in groups of 64
  bool tiles = false;   // where rows are many, AMX may multiply them: select_isa() gave kAvx512Amx
  bool byte_scales = false;  // of blocks; not with tiles

  int64_t group() const { return bits == 4 && !wide ? 16 : 64; }
  int64_t groups() const { return outputs / group(); }
  int64_t scale_bytes() const {  // of an output
    if (block == 0) return 4;
    return byte_scales ? inputs / block + 4 : inputs / block * 2;
  }
  int64_t group_bytes() const { return group() * (4 + inputs * bits / 8 + scale_bytes()); }
  int64_t bytes() const { return groups() * group_bytes(); }
};

// Whether this CPU has what the functions below need (AVX-512 with VNNI). They must not be called otherwise.
bool linear_available();

constexpr int kLinearTile = 16;  // rows of a product by tiles; for fewer VNNI is as fast

// Rows of activations in 8 bits: value = scale * (byte - zero). Where they are more than kLinearTile, memory of
// `values` is readable up to a multiple of it: products by tiles read what is there, and nobody sees the result.
struct ByteRows {
  uint8_t* values = nullptr;  // [rows][stride]
  int64_t stride = 0;
  float* scales = nullptr;
  int32_t* zeros = nullptr;

  ByteRows from(int64_t row) const { return {values + row * stride, stride, scales + row, zeros + row}; }
};
void quantise_row(const float* in, int64_t n, int row, const ByteRows& out);

// How many rows to give linear() at a time where there are more: whole tiles of it, that stay in the core's cache.
int linear_block(const PackedMatrix& matrix);
constexpr int kMostLinearBlock = 256;

// The outputs of groups [first, last): out[r * out_stride] is the first of them for row r.
void linear(const PackedMatrix& matrix, const ByteRows& in, int rows, int64_t first, int64_t last, float* out,
            int64_t out_stride);

// x / rms(x) * weight, eps inside the root.
void rms_norm(const float* in, const float* weight, float epsilon, int64_t n, float* out);
// inout = (inout + rms_norm(in, weight)) * scale
void add_normed(const float* in, const float* weight, float epsilon, float scale, int64_t n, float* inout);
// gate = gelu(gate) * up, by the tanh approximation
void gated_gelu(const float* up, int64_t n, float* gate);
// inout = cap * tanh(inout / cap)
void soft_cap(float cap, int64_t n, float* inout);

}  // namespace tandem
