// The sequence cache: layout of its views, the ring of sliding layers, what a rewind may rely on, reserved bytes.
#include <cstring>

#include "check.h"
#include "kernels/rope_norm.h"
#include "kv/sequence_cache.h"

using namespace tandem;

namespace {

const std::vector<CacheLayer> kLayers = {{2, 16, 100}, {1, 32, 0}};  // sliding, full
constexpr int64_t kContext = 1000, kRows = 28, kRing = 128;          // 100 + 28 rows: two times 64

std::unique_ptr<SequenceCache> make(KvType type, int64_t context = kContext) {
  return SequenceCache::create(kLayers, context, kRows, type).value();
}

}  // namespace

TEST(sliding_layers_get_a_ring_and_full_ones_the_context) {
  const auto cache = make(KvType::kF16);
  CHECK_EQ(cache->bytes(), 0u);  // pages come with prepare()
  CHECK(cache->prepare(0, kRing + 6).ok());
  CHECK_EQ(cache->k(0).ring, kRing);
  CHECK_EQ(cache->v(0).ring, kRing);
  CHECK_EQ(cache->k(1).ring, 0);
  CHECK(cache->k(0).row(5, 1) == cache->k(0).row(5 + kRing, 1));
  CHECK(cache->k(1).row(5, 0) != cache->k(1).row(5 + kRing, 0));
  CHECK(cache->k(0).row(5, 1) != cache->v(0).row(5, 1));
}

TEST(a_context_within_the_window_needs_no_ring) {
  const auto cache = make(KvType::kF16, 128);
  CHECK_EQ(cache->k(0).ring, 0);
  cache->written(128);
  for (int64_t position : {0, 1, 64, 128}) CHECK(cache->holds(position));
}

TEST(rows_and_scales_do_not_overlap) {
  for (KvType type : {KvType::kF32, KvType::kF16, KvType::kI8}) {
    const auto cache = make(type);
    CHECK(cache->prepare(0, kContext).ok());
    for (int layer = 0; layer < 2; ++layer) {
      const CacheLayer& shape = kLayers[static_cast<size_t>(layer)];
      const KvView views[] = {cache->k(layer), cache->v(layer)};
      const int64_t tokens = layer == 0 ? kRing : kContext;
      const size_t bytes = static_cast<size_t>(shape.head_dim * kv_element_bytes(type));
      const auto pattern = [&](int which, int head, int64_t t) {
        return static_cast<int>(t * 5 + head * 3 + which) % 251;
      };
      for (int which = 0; which < 2; ++which) {
        for (int head = 0; head < shape.kv_heads; ++head) {
          for (int64_t t = 0; t < tokens; ++t) {
            std::memset(views[which].row(t, head), pattern(which, head, t), bytes);
            if (type == KvType::kI8) *views[which].scale(t, head) = static_cast<float>(pattern(which, head, t));
          }
        }
      }
      int wrong = 0;
      for (int which = 0; which < 2; ++which) {
        for (int head = 0; head < shape.kv_heads; ++head) {
          for (int64_t t = 0; t < tokens; ++t) {
            const auto* row = static_cast<const unsigned char*>(views[which].row(t, head));
            wrong += row[0] != pattern(which, head, t) || row[bytes - 1] != pattern(which, head, t);
            if (type == KvType::kI8)
              wrong += *views[which].scale(t, head) != static_cast<float>(pattern(which, head, t));
          }
        }
      }
      CHECK_EQ(wrong, 0);
    }
  }
}

TEST(holds_what_the_ring_has_not_lost) {
  const auto cache = make(KvType::kF16);
  CHECK(cache->holds(0));
  cache->written(kRing);
  for (int64_t position : {0, 1, 100, 128}) CHECK(cache->holds(position));  // nothing was overwritten yet
  cache->written(300);                                                      // slots hold 172 ... 299
  CHECK(cache->holds(300));
  CHECK(cache->holds(271));   // sees 172 ... 270
  CHECK(!cache->holds(270));  // would see 171
  CHECK(!cache->holds(1));
  CHECK(cache->holds(0));  // needs nothing
  cache->written(290);     // a rewind and a shorter step: what 299 overwrote stays lost
  CHECK(!cache->holds(270));
  cache->reset();
  CHECK(cache->holds(270));
}

TEST(a_step_of_most_rows_keeps_the_window_of_its_first) {
  const auto cache = make(KvType::kF16);
  cache->written(500);
  cache->written(500 + kRows);
  CHECK(cache->holds(500));
}

TEST(reserved_bytes_count_rows_and_scales) {
  const uint64_t rows = 2 * (2 * kRing * 16 + kContext * 32), scales = 2 * (2 * kRing + kContext) * 4;
  CHECK_EQ(SequenceCache::reserved_bytes(kLayers, kContext, kRows, KvType::kF32), rows * 4);
  CHECK_EQ(SequenceCache::reserved_bytes(kLayers, kContext, kRows, KvType::kF16), rows * 2);
  CHECK_EQ(SequenceCache::reserved_bytes(kLayers, kContext, kRows, KvType::kI8), rows + scales);
}

TEST(too_large_a_cache_is_refused) {
  const auto result = SequenceCache::create({{64, 512, 0}}, int64_t{1} << 40, 1, KvType::kF32);
  CHECK(result.status().code() == Code::kOutOfMemory);
}
