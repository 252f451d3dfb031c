// Caches with a content that can be told: every row is a function of the sequence's token at its position.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "check.h"
#include "kv/sequence_cache.h"

namespace fixture {

using tandem::CacheLayer;
using tandem::KvType;
using tandem::KvView;
using tandem::SequenceCache;

// Rings of two pages, of one page of which a part is unused, and of one that a step wraps around in; and full layers.
inline const std::vector<CacheLayer> kLayers = {{2, 16, 320}, {1, 8, 100}, {1, 32, 0}, {3, 4, 0}};
constexpr int64_t kContext = 1000, kRows = 60;

// A sequence beside the tokens that it should have. Tokens differ between branches.
struct Sequence {
  std::unique_ptr<SequenceCache> cache;
  std::vector<uint32_t> tokens;

  int64_t position() const { return static_cast<int64_t>(tokens.size()); }
};

inline std::unique_ptr<SequenceCache> make(KvType type, int64_t context = kContext) {
  return SequenceCache::create(kLayers, context, kRows, type).value();
}

// Byte `i` of a row.
inline unsigned char content(uint32_t token, int layer, int which, int head, int64_t i) {
  return static_cast<unsigned char>(token * 31u + token / 256u * 17u + static_cast<uint32_t>(layer) * 7u +
                                    static_cast<uint32_t>(which) * 101u + static_cast<uint32_t>(head) * 13u +
                                    static_cast<uint32_t>(i));
}

template <class Visit>  // visit(view, layer, which, head, row bytes)
void each_row(const SequenceCache& cache, Visit visit) {
  for (int layer = 0; layer < static_cast<int>(cache.layers().size()); ++layer) {
    const CacheLayer& shape = cache.layers()[static_cast<size_t>(layer)];
    const int64_t bytes = shape.head_dim * tandem::kv_element_bytes(cache.type());
    for (int which = 0; which < 2; ++which) {
      const KvView view = which == 0 ? cache.k(layer) : cache.v(layer);
      for (int head = 0; head < shape.kv_heads; ++head) visit(view, layer, which, head, bytes);
    }
  }
}

inline void append(Sequence& sequence, const std::vector<uint32_t>& tokens) {
  const int64_t start = sequence.position(), count = static_cast<int64_t>(tokens.size());
  CHECK(sequence.cache->prepare(start, count).ok());
  each_row(*sequence.cache, [&](const KvView& view, int layer, int which, int head, int64_t bytes) {
    for (int64_t t = 0; t < count; ++t) {
      auto* row = static_cast<unsigned char*>(view.row(start + t, head));
      const uint32_t token = tokens[static_cast<size_t>(t)];
      for (int64_t i = 0; i < bytes; ++i) row[i] = content(token, layer, which, head, i);
      if (view.type == KvType::kI8)
        *view.scale(start + t, head) = static_cast<float>(token + static_cast<uint32_t>(head));
    }
  });
  sequence.cache->written(start + count);
  sequence.tokens.insert(sequence.tokens.end(), tokens.begin(), tokens.end());
}

inline Sequence clone(const Sequence& sequence) { return {sequence.cache->clone(), sequence.tokens}; }

// As a target does it: what cannot be gone on from is forgotten.
inline void rewind(Sequence& sequence, int64_t position) {
  if (!sequence.cache->holds(position)) {
    sequence.cache->reset();
    position = 0;
  }
  sequence.tokens.resize(static_cast<size_t>(position));
}

// Rows that the next token would see and that are not what they should be.
inline int wrong_rows(const Sequence& sequence) {
  int wrong = 0;
  each_row(*sequence.cache, [&](const KvView& view, int layer, int which, int head, int64_t bytes) {
    const int64_t window = sequence.cache->layers()[static_cast<size_t>(layer)].window;
    const int64_t oldest = window > 0 ? std::max<int64_t>(0, sequence.position() - window + 1) : 0;
    for (int64_t t = oldest; t < sequence.position(); ++t) {
      const auto* row = static_cast<const unsigned char*>(view.row(t, head));
      const uint32_t token = sequence.tokens[static_cast<size_t>(t)];
      bool good = true;
      for (int64_t i = 0; i < bytes; ++i) good = good && row[i] == content(token, layer, which, head, i);
      if (view.type == KvType::kI8) {
        good = good && *view.scale(t, head) == static_cast<float>(token + static_cast<uint32_t>(head));
      }
      wrong += !good;
    }
  });
  return wrong;
}

struct Random {
  uint64_t state = 1;
  uint32_t next() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state >> 33);
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
  std::vector<uint32_t> tokens(int64_t count) {
    std::vector<uint32_t> out;
    for (int64_t i = 0; i < count; ++i) out.push_back(next() & 0xfffff);
    return out;
  }
};

}  // namespace fixture
