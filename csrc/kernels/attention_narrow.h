// Attention of few query rows, bound by reading the cache: vectors lie along head_dim, and elements of the cache are
// converted in registers. Included by kernels_impl.h.

// ---- scores: s[row][key] = q[row] . k[key] --------------------------------------------------------------------------

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

// `next_v`: the values that follow these scores, to be prefetched meanwhile.
template <class Element>
TANDEM_INLINE void scores(const float* q, int rows, int dim, const char* k, int64_t stride, int keys, float* s,
                          const char* next_v, int64_t v_stride) {
  for (int n = 0; n < keys; n += 4) {
    const Element* row[4];  // past the last key: that key again; its columns are masked later
    for (int j = 0; j < 4; ++j) row[j] = reinterpret_cast<const Element*>(k + smaller(n + j, keys - 1) * stride);
    const int bytes = dim * static_cast<int>(sizeof(Element));
    prefetch(next_v + n * v_stride, v_stride, bytes, 4);
    prefetch(k + (n + kKeysAhead) * stride, stride, bytes, 4);
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

// ---- online softmax of one row over one key block ------------------------------------------------------------------

// Turns scores into weights relative to the running maximum; only keys [from, to) count. `scales`: of the keys, then of
// the values; null where there are none. Returns the factor for what was accumulated before. `peak` and `total` are the
// row's running maximum and sum of weights.
TANDEM_INLINE float soften(float* s, int from, int to, float cap, const float* scales, float* peak, float* total) {
  if (from >= to) {
    for (int n = 0; n < kKeyBlock; n += kLanes) store(s + n, Vec{});
    return 1.0f;
  }
  Int lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  Vec best = splat(kNone);
  for (int n = 0; n < kKeyBlock; n += kLanes) {
    Vec x = load(s + n);
    if (scales) x *= load(scales + n);
    if (cap > 0.0f) x = soft_cap(x, cap);
    const Int key = lane + n;
    x = (key >= from) & (key < to) ? x : splat(kNone);
    store(s + n, x);
    best = maximum(best, x);
  }
  const float before = *peak, top = ceiling(splat(largest(best)))[0], now = top > before ? top : before;
  Vec added = {};
  for (int n = 0; n < kKeyBlock; n += kLanes) {
    const Vec x = load(s + n), weight = x > kNone ? power2(x, splat(now), false) : Vec{};
    store(s + n, scales ? weight * load(scales + kKeyBlock + n) : weight);
    added += weight;
  }
  const float keep = before > kNone ? power2(splat(before), splat(now), false)[0] : 0.0f;
  *peak = now;
  *total = *total * keep + sum(added);
  return keep;
}

// ---- one item of the plan ------------------------------------------------------------------------------------------

template <class Element>
TANDEM_INLINE void attend_narrow(const AttentionCall& call, const AttentionPlan& plan, const Item& item, float* scratch,
                                 float* partial) {
  const int dim = call.shape.head_dim, group = item.group;
  const ScratchLayout at = scratch_layout(plan, dim);
  float *q = scratch + at.q, *s = scratch + at.s, *keep = scratch + at.statistics;
  float* o = partial ? partial : scratch + at.o;
  float* peak = partial ? partial + plan.room * dim : keep + plan.room;
  float* total = peak + plan.room;
  const float scale = query_scale(call);
  for (int t = 0; t < item.tokens; ++t) {
    const float* in = query_row(call, item, t, 0);
    for (int d = 0; d < group * dim; d += kLanes) store(q + t * group * dim + d, load(in + d) * scale);
  }
  for (int i = 0; i < item.rows * dim; i += kLanes) store(o + i, Vec{});
  for (int r = 0; r < item.rows; ++r) peak[r] = kNone, total[r] = 0.0f;

  for (int64_t key = item.begin; key < item.end;) {
    const int keys = block_keys(call, key, item.end, kKeyBlock);
    const char* k = static_cast<const char*>(call.k.row(key, item.head));
    const char* v = static_cast<const char*>(call.v.row(key, item.head));
    float both[2 * kKeyBlock];
    const float* scales = nullptr;
    if (sizeof(Element) == 1) {
      const float *of_k = call.k.scale(key, item.head), *of_v = call.v.scale(key, item.head);
      for (int n = 0; n < kKeyBlock; ++n) {
        both[n] = n < keys ? of_k[n] : 0.0f;
        both[kKeyBlock + n] = n < keys ? of_v[n] : 0.0f;
      }
      scales = both;
    }
    scores<Element>(q, item.rows, dim, k, call.k.token_stride, keys, s, v, call.v.token_stride);
    for (int t = 0; t < item.tokens; ++t) {
      const int from = within(first_key(call, item, t) - key, keys), to = within(end_key(call, item, t) - key, keys);
      for (int r = t * group; r < (t + 1) * group; ++r) {
        keep[r] = soften(s + r * kKeyBlock, from, to, call.shape.softcap, scales, peak + r, total + r);
      }
    }
    values<Element>(s, keep, item.rows, dim, v, call.v.token_stride, keys, o);
    key += keys;
  }
  if (!partial) finish(call, item, o, total);
}
