// Attention of T new tokens over a cache, on the CPU: online softmax, grouped query heads, sliding window, image
// blocks, soft cap. Work is cut into items that do not depend on the number of threads, so any number of threads gives
// the same bits:
//   plan = plan_attention(call); every thread: attend(call, plan, workspace, thread, threads); barrier;
//   if (plan.splits > 1) every thread: attend_merge(...)
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/cpu_features.h"
#include "base/status.h"
#include "kernels/kv_view.h"

namespace tandem {

struct AttentionShape {
  int heads = 0;  // query heads; a multiple of kv_heads: query head h reads kv head h / (heads / kv_heads)
  int kv_heads = 0;
  int head_dim = 0;  // a multiple of 4 (of 16 for full speed)
  float scale = 1.0f;
  float softcap = 0.0f;  // 0 = off; else scores become softcap * tanh(score / softcap)
};

struct AttentionCall {
  AttentionShape shape;
  int tokens = 0;  // T queries at positions first_position ...; their own keys and values are in the cache already
  int64_t first_position = 0;
  int64_t window = 0;  // 0 = all earlier keys; else query p sees keys above p - window only
  const int32_t* block_end =
      nullptr;               // per query, optional: it sees keys up to max(p, block_end) (its image block), not only p
  const float* q = nullptr;  // [T][heads][head_dim], normed and roped
  KvView k, v;               // of one type; a ring must hold every key that any of the queries sees
  float* out = nullptr;      // [T][heads][head_dim]
};

struct AttentionPlan {
  Isa isa = Isa::kBaseline;
  int tile_tokens = 1;  // queries per item
  int room = 0;         // rows (query, head) per item, rounded up to whole vectors
  bool wide = false;    // rows in the lanes of vectors; else head_dim in the lanes, for few rows
  bool bfloat = false;  // products in bfloat16, sums in float
  int64_t tiles = 0;
  int64_t splits = 1;  // pieces of the key range; above 1 attend_merge() must follow
  int64_t split_keys = 0;
  int64_t items = 0;  // kv_heads * tiles * splits; more threads than this have nothing to do
  size_t thread_floats = 0, item_floats = 0;

  size_t workspace_bytes(int threads) const;
};

// Checks the call's numbers and chooses the cut and the arithmetic. kInvalidRequest names what is wrong.
// On kAvx512Bf16, a cache of kF16 or kI8 is multiplied in bfloat16 where that is faster: when many query heads share a
// kv head, and in prefill. The choice does not depend on how many tokens a decode or verify step has, so that both
// compute the same but for the order of float additions. Error of the output, relative to its largest element: below
// 1e-2 with bfloat16, else below 5e-6, against exact attention over the cached values.
Result<AttentionPlan> plan_attention(const AttentionCall& call, Isa isa);

// Does the items of `thread` out of `threads`. `workspace`: workspace_bytes(threads), aligned to 64, shared by the
// threads.
void attend(const AttentionCall& call, const AttentionPlan& plan, void* workspace, int thread, int threads);

// Joins the pieces of split key ranges, after all threads' attend().
void attend_merge(const AttentionCall& call, const AttentionPlan& plan, void* workspace, int thread, int threads);

}  // namespace tandem
