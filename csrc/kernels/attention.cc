// Plans of attention, the share of each thread, and the merge of split key ranges. The arithmetic is in kernels_impl.h.
#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/kernels.h"

namespace tandem {
namespace {

constexpr int64_t kEnoughItems = 16;     // from here on there is work for every thread without splitting the keys
constexpr int64_t kSplitItems = 32;      // splitting aims at this many items at most
constexpr int64_t kSmallestSplit = 256;  // keys; below it the merge would cost more than a second thread saves
constexpr int kPrefillTokens = 16;       // from here on a step is a prefill

size_t aligned(size_t floats) { return (floats + 15) / 16 * 16; }

Status invalid(const std::string& what) { return Status(Code::kInvalidRequest, "attention: " + what); }

float* thread_scratch(const AttentionPlan& plan, void* workspace, int thread) {
  return static_cast<float*>(workspace) + plan.thread_floats * static_cast<size_t>(thread);
}

// Partial results come after the scratch of all threads.
float* partial_of(const AttentionPlan& plan, void* workspace, int threads, int64_t item) {
  return thread_scratch(plan, workspace, threads) + plan.item_floats * static_cast<size_t>(item);
}

}  // namespace

const Kernels& kernels_for(Isa isa, int head_dim) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512Bf16 && head_dim % kAvx512Bf16Kernels.lanes == 0) return kAvx512Bf16Kernels;
  if (isa >= Isa::kAvx512 && head_dim % kAvx512Kernels.lanes == 0) return kAvx512Kernels;
  if (isa >= Isa::kAvx2 && head_dim % kAvx2Kernels.lanes == 0) return kAvx2Kernels;
#else
  (void)isa, (void)head_dim;
#endif
  return kBaselineKernels;
}

ScratchLayout scratch_layout(const AttentionPlan& plan, int head_dim) {
  const size_t room = static_cast<size_t>(plan.room), dim = static_cast<size_t>(head_dim);
  ScratchLayout at = {};
  at.o = at.q + aligned(room * dim);
  at.s = at.o + aligned(room * dim);
  at.k = at.s + aligned(room * (plan.wide ? kWideBlock : kKeyBlock));
  at.v = at.k + aligned(plan.wide ? kMostScoreKeys * dim : 0);
  at.statistics = at.v + aligned(plan.wide ? kWideBlock * kMostStrip : 0);
  at.size = at.statistics + aligned(5 * room);  // factor, maximum, sum; first and end key
  return at;
}

size_t AttentionPlan::workspace_bytes(int threads) const {
  const size_t partials = splits > 1 ? item_floats * static_cast<size_t>(items) : 0;
  return (thread_floats * static_cast<size_t>(threads) + partials) * sizeof(float);
}

Result<AttentionPlan> plan_attention(const AttentionCall& call, Isa isa) {
  const AttentionShape& shape = call.shape;
  if (shape.kv_heads < 1 || shape.heads < shape.kv_heads || shape.heads % shape.kv_heads != 0) {
    return invalid(std::to_string(shape.heads) + " query heads do not share " + std::to_string(shape.kv_heads) +
                   " kv heads");
  }
  if (shape.head_dim < 4 || shape.head_dim % 4 != 0) return invalid("head_dim must be a multiple of 4");
  if (call.tokens < 1 || call.first_position < 0 || call.window < 0)
    return invalid("no tokens, or a negative position or window");
  if (call.k.type != call.v.type) return invalid("K and V must have one type");
  for (const KvView* view : {&call.k, &call.v}) {
    if (view->type == KvType::kI8 && !view->scales && !view->pages) return invalid("an int8 cache needs scales");
    if (view->pages && view->page_slots < 1) return invalid("pages without slots");
  }
  int64_t last = call.first_position + call.tokens - 1;
  if (call.block_end) {
    for (int t = 0; t < call.tokens; ++t) last = std::max<int64_t>(last, call.block_end[t]);
  }
  const int64_t oldest = call.window > 0 ? std::max<int64_t>(0, call.first_position - call.window + 1) : 0;
  const int64_t keys = last - oldest + 1;
  for (const KvView* view : {&call.k, &call.v}) {
    if (view->ring > 0 && view->ring < keys) {
      return invalid("a ring of " + std::to_string(view->ring) + " tokens cannot hold the " + std::to_string(keys) +
                     " keys that the queries see");
    }
  }

  AttentionPlan plan;
  plan.isa = isa;
  const int group = shape.heads / shape.kv_heads;
  plan.tile_tokens = std::clamp(kMaxRows / group, 1, call.tokens);
  plan.tiles = (call.tokens + plan.tile_tokens - 1) / plan.tile_tokens;
  const int64_t whole = plan.tiles * shape.kv_heads;
  if (whole < kEnoughItems) {
    plan.splits = std::clamp<int64_t>(keys / kSmallestSplit, 1, kSplitItems / whole);
    plan.split_keys = (keys / plan.splits + kKeyBlock - 1) / kKeyBlock * kKeyBlock;
    plan.splits = (keys + plan.split_keys - 1) / plan.split_keys;
  }
  plan.items = whole * plan.splits;
  const Kernels& kernels = kernels_for(isa, shape.head_dim);
  const int rows = plan.tile_tokens * group;
  plan.room = (rows + kRowPadding - 1) / kRowPadding * kRowPadding;
  plan.wide = rows >= kernels.wide_rows;
  plan.bfloat = plan.wide && kernels.bfloat && call.k.type != KvType::kF32 &&
                shape.head_dim % (2 * kernels.lanes) == 0 &&
                (group >= kernels.wide_rows || call.tokens >= kPrefillTokens);
  plan.thread_floats = scratch_layout(plan, shape.head_dim).size;
  plan.item_floats = aligned(static_cast<size_t>(plan.room) * static_cast<size_t>(shape.head_dim + 2));
  return plan;
}

void attend(const AttentionCall& call, const AttentionPlan& plan, void* workspace, int thread, int threads) {
  const Kernels& kernels = kernels_for(plan.isa, call.shape.head_dim);
  // The last queries see the most keys: long items first, and whoever had the longer one of a round begins the next.
  for (int64_t round = 0; round * threads < plan.items; ++round) {
    const int64_t i = round * threads + (round % 2 == 0 ? thread : threads - 1 - thread);
    if (i >= plan.items) continue;
    const int64_t item = plan.items - 1 - i;
    float* partial = plan.splits > 1 ? partial_of(plan, workspace, threads, item) : nullptr;
    kernels.attend_item(call, plan, item, thread_scratch(plan, workspace, thread), partial);
  }
}

void attend_merge(const AttentionCall& call, const AttentionPlan& plan, void* workspace, int thread, int threads) {
  if (plan.splits <= 1) return;
  const int dim = call.shape.head_dim, group = call.shape.heads / call.shape.kv_heads;
  const int64_t room = plan.room;
  for (int64_t row = thread; row < static_cast<int64_t>(call.tokens) * call.shape.heads; row += threads) {
    const int64_t token = row / call.shape.heads, head = row % call.shape.heads;
    const int64_t first_item = (head / group * plan.tiles + token / plan.tile_tokens) * plan.splits;
    const int64_t r = token % plan.tile_tokens * group + head % group;
    float peak = -INFINITY, total = 0.0f;
    for (int64_t s = 0; s < plan.splits; ++s) {
      peak = std::max(peak, partial_of(plan, workspace, threads, first_item + s)[room * dim + r]);
    }
    float* out = call.out + row * dim;
    std::fill_n(out, dim, 0.0f);
    for (int64_t s = 0; s < plan.splits; ++s) {
      const float* partial = partial_of(plan, workspace, threads, first_item + s);
      const float weight = std::exp2(partial[room * dim + r] - peak);  // 0 for a piece in which this query saw no key
      total += weight * partial[room * dim + room + r];
      for (int d = 0; d < dim; ++d) out[d] += weight * partial[r * dim + d];
    }
    for (int d = 0; d < dim; ++d) out[d] /= total;
  }
}

}  // namespace tandem
