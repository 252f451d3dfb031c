// The functions that exist once per instruction set, and the table that picks them. Internal to this layer.
#pragma once

#include "kernels/attention.h"
#include "kernels/rope_norm.h"

namespace tandem {

struct Kernels {
  int lanes;  // head_dim must be a multiple of this
  // One item of the plan; `partial` is null when the key range is not split.
  void (*attend_item)(const AttentionCall&, const AttentionPlan&, int64_t item, float* scratch, float* partial);
  void (*transform_head)(const float* in, int head_dim, const HeadTransform&, int token, float* out);
  void (*store_half)(const float* in, int n, uint16_t* out);
};

extern const Kernels kBaselineKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

// The widest set not above `isa` whose vectors divide head_dim.
const Kernels& kernels_for(Isa isa, int head_dim);

constexpr int kKeyBlock = 64;  // keys per step of the online softmax
constexpr int kMaxRows = 64;   // (query, head) rows per item, unless one token has more heads than this

inline int rows_per_item(const AttentionCall& call, const AttentionPlan& plan) {
  return plan.tile_tokens * (call.shape.heads / call.shape.kv_heads);
}

}  // namespace tandem
