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
  int64_t tiles = 0;
  int64_t splits = 1;  // pieces of the key range; above 1 attend_merge() must follow
  int64_t split_keys = 0;
  int64_t items = 0;  // kv_heads * tiles * splits; more threads than this have nothing to do
  size_t thread_floats = 0, item_floats = 0;

  size_t workspace_bytes(int threads) const;
};

// Checks the call's numbers and chooses the cut. kInvalidRequest names what is wrong.
Result<AttentionPlan> plan_attention(const AttentionCall& call, Isa isa);

// Does the items of `thread` out of `threads`. `workspace`: workspace_bytes(threads), aligned to 64, shared by the
// threads.
void attend(const AttentionCall& call, const AttentionPlan& plan, void* workspace, int thread, int threads);

// Joins the pieces of split key ranges, after all threads' attend().
void attend_merge(const AttentionCall& call, const AttentionPlan& plan, void* workspace, int thread, int threads);

}  // namespace tandem
