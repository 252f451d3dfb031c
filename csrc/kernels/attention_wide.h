// Attention of many query rows, bound by arithmetic: vectors hold one value of each of kLanes rows, so that scores need
// no sums across lanes and the softmax of a vector's rows runs at once. K and V are unpacked piece by piece into
// buffers that stay in the L1 cache. Included by kernels_impl.h.
//
// Buffers hold words of 32 bits, which are floats or pairs of bfloat16; `words` = head_dim / kPack.

// ---- arithmetic: floats, or pairs of bfloat16 with float sums -------------------------------------------------------

struct Single {
  static constexpr int kPack = 1;
  static constexpr bool kCoarse = false;
  TANDEM_INLINE Vec broadcast(const float* word) { return splat(*word); }
  TANDEM_INLINE Vec multiply_add(Vec sum, Vec a, Vec b) { return sum + a * b; }
  template <class Element>
  TANDEM_INLINE Vec words(const Element* p) {
    return load(p);
  }
  TANDEM_INLINE Vec pair(Vec a, Vec) { return a; }
};

#if defined(TANDEM_BFLOAT)
struct Brain {
  static constexpr int kPack = 2;
  static constexpr bool kCoarse = true;
  TANDEM_INLINE Vec broadcast(const float* word) { return (Vec)_mm512_set1_epi32(__builtin_bit_cast(int32_t, *word)); }
  TANDEM_INLINE Vec multiply_add(Vec sum, Vec a, Vec b) {
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
  }
  // Neighbours share a word.
  template <class Element>
  TANDEM_INLINE Vec words(const Element* p) {
    return (Vec)_mm512_cvtne2ps_pbh((__m512)load(p + kLanes), (__m512)load(p));
  }
  // Lane i of a and of b share word i.
  TANDEM_INLINE Vec pair(Vec a, Vec b) {
    typedef int16_t Shorts __attribute__((vector_size(64)));
    const Shorts order = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                          8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
    return (Vec)_mm512_maskz_permutexvar_epi16(0xffffffffu, (__m512i)order, both);
  }
};
#endif

// ---- scores: s[key][row] --------------------------------------------------------------------------------------------

// Words [w, w + kLanes) of keys [0, keys) to k[chunk of kLanes words][key][word], so that a tile reads it front to
// back.
template <class Math, class Element>
TANDEM_INLINE void unpack_keys(const char* rows, int64_t stride, int keys, int w, float* k) {
  for (int n = 0; n < keys; ++n) {
    const Element* row = reinterpret_cast<const Element*>(rows + n * stride);
    store(k + w * kScoreKeys + n * kLanes, Math::words(row + w * Math::kPack));
  }
}

// What is done bit by bit while a tile is computed, as it needs other parts of the core: the keys of the next tile are
// unpacked, the values of this tile are brought nearer. The keys of the next block are, while values are added up:
// memory is read all the time.
struct Ahead {
  const char *k, *v;
  int64_t k_stride, v_stride;
  int keys;  // of the next tile
};

template <class Math, class Element>
TANDEM_INLINE void work_ahead(const Ahead& ahead, int w, float* k) {
  const int64_t offset = w * Math::kPack * static_cast<int64_t>(sizeof(Element));
  if (offset % 64 == 0) {
    for (int n = 0; n < kScoreKeys; ++n) __builtin_prefetch(ahead.v + n * ahead.v_stride + offset, 0, 2);
  }
  if (ahead.keys == kScoreKeys) {
    unpack_keys<Math, Element>(ahead.k, ahead.k_stride, kScoreKeys, w, k);
  } else {
    unpack_keys<Math, Element>(ahead.k, ahead.k_stride, ahead.keys, w, k);
  }
}

// C vectors of rows by kScoreKeys keys. q: [C][words][kLanes].
template <class Math, int C, class Element>
TANDEM_INLINE void wide_score_tile(const float* q, int words, float* k, float* s, int room, const Ahead* ahead) {
  Vec acc[C][kScoreKeys] = {};
  for (int w = 0; w < words; w += kLanes) {
#pragma GCC unroll 2
    for (int i = 0; i < kLanes; ++i) {
      Vec x[C];
      for (int c = 0; c < C; ++c) x[c] = load(q + (c * words + w + i) * kLanes);
#pragma GCC unroll 16
      for (int n = 0; n < kScoreKeys; ++n) {
        const Vec y = Math::broadcast(k + w * kScoreKeys + n * kLanes + i);
        for (int c = 0; c < C; ++c) acc[c][n] = Math::multiply_add(acc[c][n], x[c], y);
      }
    }
    if (ahead) work_ahead<Math, Element>(*ahead, w, k);
  }
#pragma GCC unroll 16
  for (int n = 0; n < kScoreKeys; ++n) {
    for (int c = 0; c < C; ++c) store(s + n * room + c * kLanes, acc[c][n]);
  }
}

// `k` holds the tile, and afterwards the next one.
template <class Math, class Element>
TANDEM_INLINE void wide_scores(const float* q, int vectors, int words, float* k, float* s, int room,
                               const Ahead& ahead) {
  int g = 0;
  for (; g + kScoreVectors <= vectors; g += kScoreVectors) {
    const Ahead* last = g + kScoreVectors == vectors ? &ahead : nullptr;
    wide_score_tile<Math, kScoreVectors, Element>(q + g * words * kLanes, words, k, s + g * kLanes, room, last);
  }
  for (; g < vectors; ++g) {
    const Ahead* last = g + 1 == vectors ? &ahead : nullptr;
    wide_score_tile<Math, 1, Element>(q + g * words * kLanes, words, k, s + g * kLanes, room, last);
  }
}

// ---- online softmax of one vector of rows over one key block --------------------------------------------------------

// What a block does to its scores, and which keys each row sees (for `masked`).
struct Softening {
  float cap;
  bool masked;
  const float *k_scales, *v_scales;  // null where there are none
};

// Scores [key][row] become weights relative to the running maxima, [key / kPack][row] words. As soften(), per lane.
template <class Math>
TANDEM_INLINE void wide_soften(float* s, int room, int keys, const Softening& how, const int32_t* from,
                               const int32_t* to, float* keep, float* peak, float* total) {
  const Int first = *reinterpret_cast<const IntU*>(from), end = *reinterpret_cast<const IntU*>(to);
  Vec best = splat(kNone);
  if (how.masked || how.k_scales || how.cap > 0.0f) {
    for (int n = 0; n < keys; ++n) {
      Vec x = load(s + n * room);
      if (how.k_scales) x *= how.k_scales[n];
      if (how.cap > 0.0f) x = soft_cap(x, how.cap);
      if (how.masked) x = (first <= n) & (end > n) ? x : splat(kNone);
      store(s + n * room, x);
      best = maximum(best, x);
    }
  } else {
    for (int n = 0; n < keys; ++n) best = maximum(best, load(s + n * room));
  }
  const Vec before = load(peak), now = maximum(before, ceiling(best)), base = now > kNone ? now : Vec{};
  const Vec factor = before > kNone ? power2(before, base, false) : Vec{};
  const auto weight = [&](int n) __attribute__((always_inline)) {
    const Vec x = load(s + n * room), w = power2(x, base, Math::kCoarse);
    return how.masked ? (x > kNone ? w : Vec{}) : w;
  };
  Vec sum = load(total) * factor;
  for (int n = 0; n < keys; n += Math::kPack) {
    Vec a = weight(n), b = n + 1 < keys && Math::kPack == 2 ? weight(n + 1) : Vec{};
    Vec words = Math::pair(a, b);
    if (how.v_scales) {
      sum += a + b;
      a *= how.v_scales[n];
      if (n + 1 < keys) b *= how.v_scales[n + 1];
      words = Math::pair(a, b);
    } else {  // the rounded weights: those that the values are multiplied with
      sum = Math::multiply_add(sum, words, Math::pair(splat(1.0f), splat(1.0f)));
    }
    store(s + n / Math::kPack * room, words);
  }
  store(keep, factor);
  store(peak, now);
  store(total, sum);
}

// ---- values: o[row] = o[row] * keep[row] + sum over keys of weight * v ----------------------------------------------

// C vectors of kLanes dimensions of all keys to v[key / kPack][C * kLanes] words.
template <class Math, int C, class Element>
TANDEM_INLINE void unpack_values(const char* rows, int64_t stride, int keys, float* v) {
  for (int n = 0; n < keys; n += Math::kPack) {
    const Element* a = reinterpret_cast<const Element*>(rows + n * stride);
    const Element* b = reinterpret_cast<const Element*>(rows + (n + 1) * stride);
    const bool two = Math::kPack == 2 && n + 1 < keys;
    for (int c = 0; c < C; ++c, v += kLanes) {
      store(v, Math::pair(load(a + c * kLanes), two ? load(b + c * kLanes) : Vec{}));
    }
  }
}

// Rows of the cache that are read next, brought nearer in the course of a tile: `bytes` of each.
struct Next {
  const char* rows;
  int64_t stride;
  int count, bytes;
};

template <class Math, int C>
TANDEM_INLINE void wide_value_tile(const float* weights, int room, const float* keep, int dim, const float* v,
                                   int steps, const Next& next, float* o) {
  Vec acc[kTileRows][C];
  for (int r = 0; r < kTileRows; ++r) {
    for (int c = 0; c < C; ++c) acc[r][c] = load(o + r * dim + c * kLanes) * keep[r];
  }
  for (int n = 0; n < steps; ++n) {
    if (n < next.count) {
      for (int b = 0; b < next.bytes; b += 64) __builtin_prefetch(next.rows + n * next.stride + b, 0, 2);
    }
    Vec x[C];
    for (int c = 0; c < C; ++c) x[c] = load(v + c * kLanes);
    for (int r = 0; r < kTileRows; ++r) {
      const Vec weight = Math::broadcast(weights + r);
      for (int c = 0; c < C; ++c) acc[r][c] = Math::multiply_add(acc[r][c], weight, x[c]);
    }
    weights += room;
    v += C * kLanes;
  }
  for (int r = 0; r < kTileRows; ++r) {
    for (int c = 0; c < C; ++c) store(o + r * dim + c * kLanes, acc[r][c]);
  }
}

template <class Math, int C, class Element>
TANDEM_INLINE void wide_value_strip(const float* weights, int room, const float* keep, int rows, int dim, const char* v,
                                    int64_t stride, int keys, float* unpacked, const char* next, int64_t next_stride,
                                    float* o) {
  constexpr int kSharers = 4, kShare = kWideBlock / kSharers;  // of the next block's rows, for each of the first tiles
  unpack_values<Math, C, Element>(v, stride, keys, unpacked);
  const int steps = (keys + Math::kPack - 1) / Math::kPack;
  for (int r = 0; r < rows; r += kTileRows) {
    const int share = r / kTileRows;
    Next ahead = {};
    if (next && share < kSharers) {
      ahead = {next + share * kShare * next_stride, next_stride, kShare,
               C * kLanes * static_cast<int>(sizeof(Element))};
    }
    wide_value_tile<Math, C>(weights + r, room, keep + r, dim, unpacked, steps, ahead, o + r * dim);
  }
}

template <class Math, class Element>
TANDEM_INLINE void wide_values(const float* weights, int room, const float* keep, int rows, int dim, const char* v,
                               int64_t stride, int keys, float* unpacked, const char* next, int64_t next_stride,
                               float* o) {
  constexpr int kStrip = kStripVectors * kLanes;
  static_assert(kStrip <= kMostStrip && kScoreKeys <= kMostScoreKeys && kWideBlock % kScoreKeys == 0);
  int d = 0;
  for (; d + kStrip <= dim; d += kStrip) {
    const auto at = d * sizeof(Element);
    wide_value_strip<Math, kStripVectors, Element>(weights, room, keep, rows, dim, v + at, stride, keys, unpacked,
                                                   next ? next + at : nullptr, next_stride, o + d);
  }
  for (; d < dim; d += kLanes) {
    wide_value_strip<Math, 1, Element>(weights, room, keep, rows, dim, v + d * sizeof(Element), stride, keys, unpacked,
                                       nullptr, 0, o + d);
  }
}

// ---- one item of the plan -------------------------------------------------------------------------------------------

// Queries to q[vector of rows][word][lane]; lanes without a row are 0.
template <class Math>
TANDEM_INLINE void pack_queries(const AttentionCall& call, const Item& item, int vectors, float* q) {
  const int dim = call.shape.head_dim, words = dim / Math::kPack;
  const float scale = query_scale(call);
  for (int r = 0; r < vectors * kLanes; ++r) {
    float* out = q + r / kLanes * words * kLanes + r % kLanes;
    const float* in = r < item.rows ? query_row(call, item, r / item.group, r % item.group) : nullptr;
    for (int w = 0; w < words; w += kLanes) {
      float scaled[kLanes * Math::kPack] = {}, packed[kLanes];
      for (int i = 0; in && i < kLanes * Math::kPack; i += kLanes) {
        store(scaled + i, load(in + w * Math::kPack + i) * scale);
      }
      store(packed, Math::words(scaled));
      for (int i = 0; i < kLanes; ++i) out[(w + i) * kLanes] = packed[i];
    }
  }
}

template <class Math, class Element>
TANDEM_INLINE void attend_wide(const AttentionCall& call, const AttentionPlan& plan, const Item& item, float* scratch,
                               float* partial) {
  const int dim = call.shape.head_dim, words = dim / Math::kPack, room = plan.room;
  const ScratchLayout at = scratch_layout(plan, dim);
  float *q = scratch + at.q, *s = scratch + at.s, *k_words = scratch + at.k, *v_words = scratch + at.v;
  float* o = partial ? partial : scratch + at.o;
  float* keep = scratch + at.statistics;
  float* peak = partial ? partial + room * dim : keep + room;
  float* total = peak + room;
  int32_t* from = reinterpret_cast<int32_t*>(keep + 3 * room);
  int32_t* to = from + room;

  const int vectors = (item.rows + kLanes - 1) / kLanes, rows = (item.rows + kTileRows - 1) / kTileRows * kTileRows;
  pack_queries<Math>(call, item, vectors, q);
  for (int i = 0; i < rows * dim; i += kLanes) store(o + i, Vec{});
  for (int r = 0; r < vectors * kLanes; ++r) peak[r] = kNone, total[r] = 0.0f;
  int64_t latest_first = 0, earliest_end = item.end;
  for (int t = 0; t < item.tokens; ++t) {
    latest_first = larger(latest_first, first_key(call, item, t));
    earliest_end = smaller(earliest_end, end_key(call, item, t));
  }

  for (int64_t key = item.begin; key < item.end;) {
    const int keys = block_keys(call, key, item.end, kWideBlock);
    const char* k = static_cast<const char*>(call.k.row(key, item.head));
    const char* v = static_cast<const char*>(call.v.row(key, item.head));
    const int64_t k_stride = call.k.token_stride, v_stride = call.v.token_stride;
    for (int w = 0; w < words; w += kLanes) {
      unpack_keys<Math, Element>(k, k_stride, static_cast<int>(smaller(kScoreKeys, keys)), w, k_words);
    }
    for (int n = 0; n < keys; n += kScoreKeys) {
      const int next = within(keys - n - kScoreKeys, kScoreKeys);
      const Ahead ahead = {k + (n + kScoreKeys) * k_stride, v + n * v_stride, k_stride, v_stride, next};
      wide_scores<Math, Element>(q, vectors, words, k_words, s + n * room, room, ahead);
    }
    Softening how = {call.shape.softcap, latest_first > key || earliest_end < key + keys, nullptr, nullptr};
    if (sizeof(Element) == 1) {
      how.k_scales = call.k.scale(key, item.head);
      how.v_scales = call.v.scale(key, item.head);
    }
    if (how.masked) {
      for (int r = 0; r < vectors * kLanes; ++r) {
        const int t = static_cast<int>(smaller(r / item.group, item.tokens - 1));
        from[r] = within(first_key(call, item, t) - key, keys);
        to[r] = within(end_key(call, item, t) - key, keys);
      }
    }
    for (int r = 0; r < vectors * kLanes; r += kLanes) {
      wide_soften<Math>(s + r, room, keys, how, from + r, to + r, keep + r, peak + r, total + r);
    }
    key += keys;
    const char* next = key < item.end ? static_cast<const char*>(call.k.row(key, item.head)) : nullptr;
    wide_values<Math, Element>(s, room, keep, rows, dim, v, v_stride, keys, v_words, next, k_stride, o);
  }
  if (!partial) finish(call, item, o, total);
}
