// The kernels, written once over simd.h's vector. Included by each kernels_<isa>.cc inside its own namespace and
// target; uses no inline function of the standard library, which could end up in the program compiled for the wrong
// CPU.

namespace tandem {
namespace TANDEM_ISA {

#include "kernels/simd.h"

TANDEM_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
TANDEM_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// ---- scores: s[row][key] = q[row] . k[key] -------------------------------------------------------------------------

// R rows by 4 keys, accumulated in registers.
template <int R, class Element>
TANDEM_INLINE void score_tile(const float* q, int dim, const Element* const k[4], float* s) {
  Vec acc[R][4] = {};
  for (int d = 0; d < dim; d += kLanes) {
    const Vec k0 = load(k[0] + d), k1 = load(k[1] + d), k2 = load(k[2] + d), k3 = load(k[3] + d);
    for (int r = 0; r < R; ++r) {
      const Vec x = load(q + r * dim + d);
      acc[r][0] += x * k0;
      acc[r][1] += x * k1;
      acc[r][2] += x * k2;
      acc[r][3] += x * k3;
    }
  }
  for (int r = 0; r < R; ++r) {
    *reinterpret_cast<Vec4U*>(s + r * kKeyBlock) = sums(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
  }
}

// Brings four rows towards the core while earlier ones are computed with. Into L2 only: asking for L1 measured no gain.
TANDEM_INLINE void prefetch(const char* rows, int64_t stride, int bytes) {
  for (int j = 0; j < 4; ++j) {
    for (int b = 0; b < bytes; b += 64) __builtin_prefetch(rows + j * stride + b, 0, 2);
  }
}

constexpr int kKeysAhead = 16;

// `next_v`: the values that follow these scores, to be prefetched meanwhile; null where rows come from a cache anyway.
template <class Element>
TANDEM_INLINE void scores(const float* q, int rows, int dim, const char* k, int64_t stride, int keys, float* s,
                          const char* next_v, int64_t v_stride) {
  for (int n = 0; n < keys; n += 4) {
    const Element* row[4];  // past the last key: that key again; its columns are masked later
    for (int j = 0; j < 4; ++j) row[j] = reinterpret_cast<const Element*>(k + smaller(n + j, keys - 1) * stride);
    if (next_v) {
      const int bytes = dim * static_cast<int>(sizeof(Element));
      prefetch(next_v + n * v_stride, v_stride, bytes);
      prefetch(k + (n + kKeysAhead) * stride, stride, bytes);
    }
    int r = 0;
    for (; r + kTileRows <= rows; r += kTileRows) score_tile<kTileRows>(q + r * dim, dim, row, s + r * kKeyBlock + n);
    if (kTileRows == 4 && r + 2 <= rows) {
      score_tile<2>(q + r * dim, dim, row, s + r * kKeyBlock + n);
      r += 2;
    }
    if (r < rows) score_tile<1>(q + r * dim, dim, row, s + r * kKeyBlock + n);
  }
}

// ---- values: o[row] = o[row] * keep[row] + sum over keys of p[row][key] * v[key] ------------------------------------

// R rows by C vectors, accumulated in registers over the block's keys.
template <int R, int C, class Element>
TANDEM_INLINE void value_tile(const float* p, const float* keep, int dim, const char* v, int64_t stride, int keys,
                              float* o) {
  Vec acc[R][C];
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) acc[r][c] = load(o + r * dim + c * kLanes) * keep[r];
  }
  for (int n = 0; n < keys; ++n) {
    const Element* row = reinterpret_cast<const Element*>(v + n * stride);
    Vec x[C];
    for (int c = 0; c < C; ++c) x[c] = load(row + c * kLanes);
    for (int r = 0; r < R; ++r) {
      const Vec weight = splat(p[r * kKeyBlock + n]);
      for (int c = 0; c < C; ++c) acc[r][c] += weight * x[c];
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) store(o + r * dim + c * kLanes, acc[r][c]);
  }
}

template <int C, class Element>
TANDEM_INLINE void value_strip(const float* p, const float* keep, int rows, int dim, const char* v, int64_t stride,
                               int keys, float* o) {
  int r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) {
    value_tile<kTileRows, C, Element>(p + r * kKeyBlock, keep + r, dim, v, stride, keys, o + r * dim);
  }
  if (kTileRows == 4 && r + 2 <= rows) {
    value_tile<2, C, Element>(p + r * kKeyBlock, keep + r, dim, v, stride, keys, o + r * dim);
    r += 2;
  }
  if (r < rows) value_tile<1, C, Element>(p + r * kKeyBlock, keep + r, dim, v, stride, keys, o + r * dim);
}

template <class Element>
TANDEM_INLINE void values(const float* p, const float* keep, int rows, int dim, const char* v, int64_t stride, int keys,
                          float* o) {
  int d = 0;
  for (; d + 4 * kLanes <= dim; d += 4 * kLanes) {
    value_strip<4, Element>(p, keep, rows, dim, v + d * sizeof(Element), stride, keys, o + d);
  }
  for (; d < dim; d += kLanes)
    value_strip<1, Element>(p, keep, rows, dim, v + d * sizeof(Element), stride, keys, o + d);
}

// ---- online softmax of one row over one key block
// --------------------------------------------------------------------

TANDEM_INLINE Vec soft_cap(Vec s, float cap) {  // cap * tanh(s / cap)
  const Vec x = maximum(s * (2.0f / cap), splat(-60.0f));
  const Vec e = exponential(x < 60.0f ? x : splat(60.0f));
  return cap - 2.0f * cap / (e + 1.0f);
}

// Turns scores into weights relative to the running maximum; only keys [from, to) count. Returns the factor for what
// was accumulated before. `peak` and `total` are the row's running maximum and sum of weights.
TANDEM_INLINE float soften(float* s, int from, int to, float cap, float* peak, float* total) {
  constexpr float kNone = -__builtin_inff();
  Int lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  if (from >= to) {
    for (int n = 0; n < kKeyBlock; n += kLanes) store(s + n, Vec{});
    return 1.0f;
  }
  Vec best = splat(kNone);
  for (int n = 0; n < kKeyBlock; n += kLanes) {
    Vec x = load(s + n);
    if (cap > 0.0f) x = soft_cap(x, cap);
    const Int key = lane + n;
    x = (key >= from) & (key < to) ? x : splat(kNone);
    store(s + n, x);
    best = maximum(best, x);
  }
  const float before = *peak, top = largest(best), now = top > before ? top : before;
  Vec added = {};
  for (int n = 0; n < kKeyBlock; n += kLanes) {
    const Vec x = load(s + n);
    const Vec weight = x > kNone ? exponential(x - now) : Vec{};
    store(s + n, weight);
    added += weight;
  }
  const float keep = before > kNone ? exponential(splat(before - now))[0] : 0.0f;
  *peak = now;
  *total = *total * keep + sum(added);
  return keep;
}

// ---- one item of the plan
// ----------------------------------------------------------------------------------------------

// Widens a block of half rows, so that many query rows do not each convert them again.
TANDEM_INLINE void widen(const char* rows, int64_t stride, int keys, int dim, float* out) {
  for (int n = 0; n < keys; ++n) {
    const uint16_t* row = reinterpret_cast<const uint16_t*>(rows + n * stride);
    for (int d = 0; d < dim; d += kLanes) store(out + n * dim + d, load(row + d));
  }
}

static void attend_item(const AttentionCall& call, const AttentionPlan& plan, int64_t item, float* scratch,
                        float* partial) {
  const int dim = call.shape.head_dim, group = call.shape.heads / call.shape.kv_heads;
  const int64_t split = item % plan.splits, tile = item / plan.splits % plan.tiles;
  const int head = static_cast<int>(item / plan.splits / plan.tiles);
  const int first = static_cast<int>(tile) * plan.tile_tokens;
  const int tokens = static_cast<int>(smaller(plan.tile_tokens, call.tokens - first)), rows = tokens * group;

  // The tile's queries, scaled, row = token * group + head in group; then accumulators, weights and statistics.
  const int room = plan.tile_tokens * group;
  float* q = scratch;
  float* o = partial ? partial : q + room * dim;
  float* s = q + 2 * room * dim;
  float* wide_k = s + room * kKeyBlock;
  float* wide_v = wide_k + kKeyBlock * dim;
  float* keep = wide_v + kKeyBlock * dim;
  float* peak = partial ? partial + room * dim : keep + room;
  float* total = peak + room;
  for (int t = 0; t < tokens; ++t) {
    const float* in = call.q + (static_cast<int64_t>(first + t) * call.shape.heads + head * group) * dim;
    float* out = q + t * group * dim;
    for (int d = 0; d < group * dim; d += kLanes) store(out + d, load(in + d) * call.shape.scale);
  }
  for (int i = 0; i < rows * dim; i += kLanes) store(o + i, Vec{});
  for (int r = 0; r < rows; ++r) peak[r] = -__builtin_inff(), total[r] = 0.0f;

  // Keys that some query of the tile sees, then this item's share of them.
  const int64_t position = call.first_position + first;
  const auto from_of = [&](int t) { return call.window > 0 ? larger(0, position + t - call.window + 1) : 0; };
  const auto to_of = [&](int t) {
    return (call.block_end ? larger(position + t, call.block_end[first + t]) : position + t) + 1;
  };
  int64_t begin = from_of(0), end = 0;
  for (int t = 0; t < tokens; ++t) end = larger(end, to_of(t));
  if (plan.splits > 1) {
    begin += split * plan.split_keys;
    if (split + 1 < plan.splits) end = smaller(end, begin + plan.split_keys);
  }

  const bool half = call.k.type == KvType::kF16, convert = half && rows > 4 * kTileRows;
  for (int64_t key = begin; key < end;) {
    int64_t next = smaller(key + kKeyBlock, end);
    if (call.k.ring > 0) next = smaller(next, key + call.k.ring - key % call.k.ring);  // a block is contiguous
    if (call.v.ring > 0) next = smaller(next, key + call.v.ring - key % call.v.ring);
    const int keys = static_cast<int>(next - key);
    const char* k = static_cast<const char*>(call.k.row(key, head));
    const char* v = static_cast<const char*>(call.v.row(key, head));
    const int64_t wide = dim * static_cast<int64_t>(sizeof(float));
    if (convert) {
      widen(k, call.k.token_stride, keys, dim, wide_k);
      scores<float>(q, rows, dim, reinterpret_cast<const char*>(wide_k), wide, keys, s, nullptr, 0);
    } else if (half) {
      scores<uint16_t>(q, rows, dim, k, call.k.token_stride, keys, s, v, call.v.token_stride);
    } else {
      scores<float>(q, rows, dim, k, call.k.token_stride, keys, s, v, call.v.token_stride);
    }
    for (int t = 0; t < tokens; ++t) {
      const int from = static_cast<int>(smaller(larger(from_of(t) - key, 0), keys));
      const int to = static_cast<int>(smaller(larger(to_of(t) - key, 0), keys));
      for (int g = 0; g < group; ++g) {
        const int r = t * group + g;
        keep[r] = soften(s + r * kKeyBlock, from, to, call.shape.softcap, peak + r, total + r);
      }
    }
    if (convert) {
      widen(v, call.v.token_stride, keys, dim, wide_v);
      values<float>(s, keep, rows, dim, reinterpret_cast<const char*>(wide_v), wide, keys, o);
    } else if (half) {
      values<uint16_t>(s, keep, rows, dim, v, call.v.token_stride, keys, o);
    } else {
      values<float>(s, keep, rows, dim, v, call.v.token_stride, keys, o);
    }
    key = next;
  }
  if (partial) return;

  for (int t = 0; t < tokens; ++t) {
    float* out = call.out + (static_cast<int64_t>(first + t) * call.shape.heads + head * group) * dim;
    for (int g = 0; g < group; ++g) {
      const int r = t * group + g;
      const float scale = 1.0f / total[r];
      for (int d = 0; d < dim; d += kLanes) store(out + g * dim + d, load(o + r * dim + d) * scale);
    }
  }
}

// ---- norm and rope
// ---------------------------------------------------------------------------------------------------------

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

}  // namespace TANDEM_ISA
}  // namespace tandem
