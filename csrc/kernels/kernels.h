// The functions that exist once per instruction set, and the table that picks them. Internal to this layer.
#pragma once

#include "kernels/attention.h"
#include "kernels/rope_norm.h"

namespace tandem {

struct Kernels {
  int lanes;      // head_dim must be a multiple of this
  int wide_rows;  // from this many (query, head) rows per item on, rows in lanes are faster than head_dim in lanes
  bool bfloat;    // has bfloat16 dot products
  // One item of the plan; `partial` is null when the key range is not split.
  void (*attend_item)(const AttentionCall&, const AttentionPlan&, int64_t item, float* scratch, float* partial);
  void (*transform_head)(const float* in, int head_dim, const HeadTransform&, int token, float* out);
  void (*store_half)(const float* in, int n, uint16_t* out);
  float (*store_byte)(const float* in, int n, int8_t* out);  // symmetric; returns the scale
};

extern const Kernels kBaselineKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512Bf16Kernels;
#endif

// The widest set not above `isa` whose vectors divide head_dim.
const Kernels& kernels_for(Isa isa, int head_dim);

constexpr int kKeyBlock = 64;    // keys per step of the online softmax, few rows
constexpr int kWideBlock = 96;   // the same, many rows: a multiple of every kScoreKeys
constexpr int kMaxRows = 128;    // (query, head) rows per item, unless one token has more heads than this
constexpr int kRowPadding = 16;  // rows per item are rounded up to this: whole vectors on every instruction set
constexpr int kMostScoreKeys = 12,
              kMostStrip = 64;  // of any instruction set: keys per tile of K, floats per strip of V

// Where an item's parts are, in floats from the start of its scratch: queries, accumulators, scores, a piece of K and
// of V for the arithmetic, statistics.
struct ScratchLayout {
  size_t q, o, s, k, v, statistics, size;
};
ScratchLayout scratch_layout(const AttentionPlan& plan, int head_dim);

}  // namespace tandem
