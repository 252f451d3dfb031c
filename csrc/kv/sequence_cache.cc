#include "kv/sequence_cache.h"

#include <algorithm>

namespace tandem {
namespace {

constexpr int64_t kSlotAlignment = 64;  // slots per ring are rounded up to this: few short blocks in the kernel

// Slots of one layer; `ring` says whether they are reused.
int64_t slots(const CacheLayer& layer, int64_t max_context, int64_t max_rows, bool* ring) {
  const int64_t wanted = (layer.window + max_rows + kSlotAlignment - 1) / kSlotAlignment * kSlotAlignment;
  *ring = layer.window > 0 && wanted < max_context;
  return *ring ? wanted : max_context;
}

// Bytes of K or V of one layer: rows, then the scales of int8 rows.
int64_t row_bytes(const CacheLayer& layer, KvType type) { return layer.head_dim * kv_element_bytes(type); }
int64_t tensor_bytes(const CacheLayer& layer, int64_t count, KvType type) {
  const int64_t scale = type == KvType::kI8 ? static_cast<int64_t>(sizeof(float)) : 0;
  return layer.kv_heads * count * (row_bytes(layer, type) + scale);
}

}  // namespace

uint64_t SequenceCache::reserved_bytes(const std::vector<CacheLayer>& layers, int64_t max_context, int64_t max_rows,
                                       KvType type) {
  uint64_t total = 0;
  for (const CacheLayer& layer : layers) {
    bool ring = false;
    const int64_t count = slots(layer, max_context, max_rows, &ring);
    total += static_cast<uint64_t>(2 * tensor_bytes(layer, count, type));
  }
  return total;
}

Result<std::unique_ptr<SequenceCache>> SequenceCache::create(const std::vector<CacheLayer>& layers, int64_t max_context,
                                                             int64_t max_rows, KvType type) {
  std::unique_ptr<SequenceCache> cache(new SequenceCache);
  cache->layers_ = layers;
  for (const CacheLayer& layer : layers) {
    bool ring = false;
    const int64_t count = slots(layer, max_context, max_rows, &ring);
    KvView view;
    view.type = type;
    view.token_stride = row_bytes(layer, type);
    view.head_stride = count * view.token_stride;
    view.ring = ring ? count : 0;
    Views views;
    for (KvView* target : {&views.k, &views.v}) {
      TANDEM_ASSIGN_OR_RETURN(auto memory,
                              reserve(static_cast<std::size_t>(tensor_bytes(layer, count, type)), "the KV cache"));
      view.base = memory.get();
      if (type == KvType::kI8) {
        view.scales = reinterpret_cast<float*>(static_cast<char*>(view.base) + layer.kv_heads * view.head_stride);
        view.scale_head_stride = count;
      }
      *target = view;
      cache->memory_.push_back(std::move(memory));
    }
    cache->views_.push_back(views);
  }
  return cache;
}

bool SequenceCache::holds(int64_t position) const {
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const int64_t ring = views_[i].k.ring;
    const int64_t first = std::max<int64_t>(0, position - layers_[i].window + 1);
    if (ring > 0 && first < position && first < high_water_ - ring) return false;
  }
  return true;
}

}  // namespace tandem
