// The kernels, written once over simd.h's vector. Included by each kernels_<isa>.cc inside its own namespace and
// target; uses no inline function of the standard library, which could end up in the program compiled for the wrong
// CPU.

namespace tandem {
namespace TANDEM_ISA {

#include "kernels/simd.h"

TANDEM_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
TANDEM_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
TANDEM_INLINE int within(int64_t n, int limit) { return static_cast<int>(smaller(larger(n, 0), limit)); }

// ---- attention: what both ways of doing it share --------------------------------------------------------------------

constexpr float kNone = -__builtin_inff();  // the score of a key that is not seen

// Scores are in units of a factor 2, and running maxima are rounded up to integers: then rescaling is exact, and
// a weight rounded to bfloat16 does not depend on which keys came before.
constexpr float kLog2E = 1.44269504f;

// Rows are (token, head in group), token-major.
struct Item {
  int head, first, tokens, group, rows;
  int64_t begin, end;  // the keys that are looked at
};

// Keys that token t of the item sees: [first_key, end_key).
TANDEM_INLINE int64_t first_key(const AttentionCall& call, const Item& item, int t) {
  return call.window > 0 ? larger(0, call.first_position + item.first + t - call.window + 1) : 0;
}
TANDEM_INLINE int64_t end_key(const AttentionCall& call, const Item& item, int t) {
  const int64_t position = call.first_position + item.first + t;
  return (call.block_end ? larger(position, call.block_end[item.first + t]) : position) + 1;
}

TANDEM_INLINE Item item_of(const AttentionCall& call, const AttentionPlan& plan, int64_t index) {
  const int64_t split = index % plan.splits, tile = index / plan.splits % plan.tiles;
  Item item;
  item.head = static_cast<int>(index / plan.splits / plan.tiles);
  item.first = static_cast<int>(tile) * plan.tile_tokens;
  item.tokens = static_cast<int>(smaller(plan.tile_tokens, call.tokens - item.first));
  item.group = call.shape.heads / call.shape.kv_heads;
  item.rows = item.tokens * item.group;
  item.begin = first_key(call, item, 0);
  item.end = 0;
  for (int t = 0; t < item.tokens; ++t) item.end = larger(item.end, end_key(call, item, t));
  if (plan.splits > 1) {
    item.begin += split * plan.split_keys;
    if (split + 1 < plan.splits) item.end = smaller(item.end, item.begin + plan.split_keys);
  }
  return item;
}

// Keys of the block that begins at `key`: they are contiguous in both views.
TANDEM_INLINE int block_keys(const AttentionCall& call, int64_t key, int64_t end, int most) {
  const int64_t keys = smaller(call.k.contiguous(key), call.v.contiguous(key));
  return static_cast<int>(smaller(keys, smaller(most, end - key)));
}

TANDEM_INLINE const float* query_row(const AttentionCall& call, const Item& item, int t, int g) {
  const int64_t row = static_cast<int64_t>(item.first + t) * call.shape.heads + item.head * item.group + g;
  return call.q + row * call.shape.head_dim;
}

// soft_cap() wants scores as they are, and changes their unit itself.
TANDEM_INLINE float query_scale(const AttentionCall& call) {
  return call.shape.softcap > 0.0f ? call.shape.scale : call.shape.scale * kLog2E;
}

TANDEM_INLINE Vec soft_cap(Vec s, float cap) {  // cap * tanh(s / cap), in units of a factor 2
  const Vec x = maximum(s * (2.0f / cap), splat(-60.0f));
  const Vec e = exponential(x < 60.0f ? x : splat(60.0f));
  return (cap - 2.0f * cap / (e + 1.0f)) * kLog2E;
}

// Brings rows towards the core while earlier ones are computed with. Into L2 only: asking for L1 measured no gain.
TANDEM_INLINE void prefetch(const char* rows, int64_t stride, int bytes, int count) {
  for (int j = 0; j < count; ++j) {
    for (int b = 0; b < bytes; b += 64) __builtin_prefetch(rows + j * stride + b, 0, 2);
  }
}
constexpr int kKeysAhead = 16;

TANDEM_INLINE void finish(const AttentionCall& call, const Item& item, const float* o, const float* total) {
  const int dim = call.shape.head_dim;
  float* out = call.out + (static_cast<int64_t>(item.first) * call.shape.heads + item.head * item.group) * dim;
  for (int r = 0; r < item.rows; ++r) {
    const int64_t row = static_cast<int64_t>(r / item.group) * call.shape.heads + r % item.group;
    const float scale = 1.0f / total[r];
    for (int d = 0; d < dim; d += kLanes) store(out + row * dim + d, load(o + r * dim + d) * scale);
  }
}

#include "kernels/attention_narrow.h"
#include "kernels/attention_wide.h"

static void attend_item(const AttentionCall& call, const AttentionPlan& plan, int64_t index, float* scratch,
                        float* partial) {
  const Item item = item_of(call, plan, index);
  const KvType type = call.k.type;
#if defined(TANDEM_BFLOAT)
  if (plan.bfloat) {
    if (type == KvType::kF16) return attend_wide<Brain, uint16_t>(call, plan, item, scratch, partial);
    return attend_wide<Brain, int8_t>(call, plan, item, scratch, partial);
  }
#endif
  if (plan.wide) {
    if (type == KvType::kF32) return attend_wide<Single, float>(call, plan, item, scratch, partial);
    if (type == KvType::kF16) return attend_wide<Single, uint16_t>(call, plan, item, scratch, partial);
    return attend_wide<Single, int8_t>(call, plan, item, scratch, partial);
  }
  if (type == KvType::kF32) return attend_narrow<float>(call, plan, item, scratch, partial);
  if (type == KvType::kF16) return attend_narrow<uint16_t>(call, plan, item, scratch, partial);
  return attend_narrow<int8_t>(call, plan, item, scratch, partial);
}

// ---- norm, rope, store ----------------------------------------------------------------------------------------------

static void transform_head(const float* in, int dim, const HeadTransform& transform, int token, float* out) {
  Vec factor = splat(1.0f);
  if (transform.normalise) {
    Vec squares = {};
    for (int d = 0; d < dim; d += kLanes) squares += load(in + d) * load(in + d);
    factor = splat(1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(dim) + transform.epsilon));
  }
  for (int d = 0; d < dim; d += kLanes) {
    const Vec x = load(in + d) * factor;
    store(out + d, transform.weight ? x * load(transform.weight + d) : x);
  }
  if (!transform.cosine) return;
  const float* cosine = transform.cosine + static_cast<int64_t>(token) * transform.pairs;
  const float* sine = transform.sine + static_cast<int64_t>(token) * transform.pairs;
  float* high = out + dim / 2;
  int i = 0;
  for (; i + kLanes <= transform.pairs; i += kLanes) {
    const Vec a = load(out + i), b = load(high + i), c = load(cosine + i), n = load(sine + i);
    store(out + i, a * c - b * n);
    store(high + i, b * c + a * n);
  }
  for (; i < transform.pairs; ++i) {
    const float a = out[i], b = high[i];
    out[i] = a * cosine[i] - b * sine[i];
    high[i] = b * cosine[i] + a * sine[i];
  }
}

static void store_half(const float* in, int n, uint16_t* out) {
  for (int i = 0; i < n; i += kLanes) store(out + i, load(in + i));
}

static float store_byte(const float* in, int n, int8_t* out) {
  Vec most = {};
  for (int i = 0; i < n; i += kLanes) {
    const Vec x = load(in + i);
    most = maximum(most, maximum(x, -x));
  }
  const float scale = largest(most) / 127.0f;
  const float inverse = scale > 1e-30f ? 1.0f / scale : 0.0f;
  for (int i = 0; i < n; i += kLanes) {
    const Int rounded = (Int)(load(in + i) * inverse + kRounder);
    *reinterpret_cast<BytesU*>(out + i) = __builtin_convertvector(rounded, Bytes);  // the low byte of each
  }
  return scale;
}

}  // namespace TANDEM_ISA
}  // namespace tandem
