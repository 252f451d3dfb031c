#include "kv/sequence_cache.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace tandem {
namespace {

constexpr int64_t kSlotAlignment = 64;  // slots per ring are rounded up to this: few short blocks in the kernel

// Slots of one layer; `ring` says whether they are reused.
int64_t slots(const CacheLayer& layer, int64_t max_context, int64_t max_rows, bool* ring) {
  const int64_t wanted = (layer.window + max_rows + kSlotAlignment - 1) / kSlotAlignment * kSlotAlignment;
  *ring = layer.window > 0 && wanted < max_context;
  return *ring ? wanted : max_context;
}

int64_t row_bytes(const CacheLayer& layer, KvType type) { return layer.head_dim * kv_element_bytes(type); }
int64_t scale_bytes(KvType type) { return type == KvType::kI8 ? static_cast<int64_t>(sizeof(float)) : 0; }

// Bytes of K and V, and of their scales, of one layer.
int64_t layer_bytes(const CacheLayer& layer, int64_t count, KvType type) {
  return 2 * layer.kv_heads * count * (row_bytes(layer, type) + scale_bytes(type));
}

}  // namespace

uint64_t SequenceCache::reserved_bytes(const std::vector<CacheLayer>& layers, int64_t max_context, int64_t max_rows,
                                       KvType type) {
  uint64_t total = 0;
  for (const CacheLayer& layer : layers) {
    bool ring = false;
    total += static_cast<uint64_t>(layer_bytes(layer, slots(layer, max_context, max_rows, &ring), type));
  }
  return total;
}

Result<std::unique_ptr<SequenceCache>> SequenceCache::create(const std::vector<CacheLayer>& layers, int64_t max_context,
                                                             int64_t max_rows, KvType type) {
  std::unique_ptr<SequenceCache> cache(new SequenceCache);
  cache->layers_ = layers;
  cache->type_ = type;
  cache->max_context_ = max_context;
  cache->max_rows_ = max_rows;
  if (max_context > kMostContext) {
    return Status(Code::kOutOfMemory, "a KV cache of " + std::to_string(max_context) +
                                          " tokens is more than the most there can be, " +
                                          std::to_string(kMostContext) + "; lower max_context");
  }
  for (const CacheLayer& layer : layers) {
    Layer storage;
    storage.slots = slots(layer, max_context, max_rows, &storage.ring);
    storage.page_bytes = static_cast<std::size_t>(layer_bytes(layer, kPageSlots, type));
    const auto count = static_cast<std::size_t>((storage.slots + kPageSlots - 1) / kPageSlots);
    storage.pages.resize(count);
    storage.table.resize(count);
    cache->storage_.push_back(std::move(storage));
  }
  cache->set_views();
  return cache;
}

void SequenceCache::set_views() {
  views_.clear();
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const CacheLayer& layer = layers_[i];
    KvView view;
    view.type = type_;
    view.token_stride = row_bytes(layer, type_);
    view.head_stride = kPageSlots * view.token_stride;
    view.scale_head_stride = kPageSlots;
    view.ring = storage_[i].ring ? storage_[i].slots : 0;
    view.pages = storage_[i].table.data();
    view.page_slots = kPageSlots;
    const int64_t rows = layer.kv_heads * view.head_stride, scales = layer.kv_heads * kPageSlots * scale_bytes(type_);
    Views views{view, view};
    views.v.page_offset = rows;
    views.k.page_scales_offset = 2 * rows;
    views.v.page_scales_offset = 2 * rows + scales;
    views_.push_back(views);
  }
}

std::unique_ptr<SequenceCache> SequenceCache::clone() const {
  std::unique_ptr<SequenceCache> copy(new SequenceCache);
  copy->layers_ = layers_;
  copy->storage_ = storage_;
  copy->type_ = type_;
  copy->max_context_ = max_context_;
  copy->max_rows_ = max_rows_;
  copy->high_water_ = high_water_;
  copy->set_views();
  return copy;
}

Result<std::unique_ptr<SequenceCache>> SequenceCache::widened(int64_t start, int64_t max_rows) const {
  if (start > high_water_ || max_rows < max_rows_ || !holds(start)) {
    return Status(Code::kInvalidRequest, "a KV cache can only be widened at a position that it holds");
  }
  TANDEM_ASSIGN_OR_RETURN(auto wide, create(layers_, max_context_, max_rows, type_));
  wide->high_water_ = start;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (storage_[i].slots == wide->storage_[i].slots) {
      wide->storage_[i].lost = oldest(i);
      for (std::size_t page = 0; page < storage_[i].pages.size(); ++page)
        wide->set_page(i, page, storage_[i].pages[page]);
      continue;
    }
    const std::vector<Strip> parts = strips(i);
    wide->storage_[i].lost = oldest(i);
    for (int64_t token = oldest(i); token < start; ++token) {
      const int64_t from = views_[i].k.slot(token), to = wide->views_[i].k.slot(token);
      const auto page = static_cast<std::size_t>(to / kPageSlots);
      TANDEM_RETURN_IF_ERROR(wide->own(i, page, 0));
      const PageRef& source = storage_[i].pages[static_cast<std::size_t>(from / kPageSlots)];
      for (const Strip& strip : parts) {
        std::memcpy(wide->storage_[i].pages[page]->data() + strip.offset + to % kPageSlots * strip.row_bytes,
                    source->data() + strip.offset + from % kPageSlots * strip.row_bytes,
                    static_cast<std::size_t>(strip.row_bytes));
      }
    }
  }
  return wide;
}

std::vector<SequenceCache::Strip> SequenceCache::strips(std::size_t layer) const {
  std::vector<Strip> all;
  int64_t offset = 0;
  for (const int64_t bytes : {row_bytes(layers_[layer], type_), scale_bytes(type_)}) {
    for (int i = 0; bytes > 0 && i < 2 * layers_[layer].kv_heads; ++i) {
      all.push_back({offset, bytes});
      offset += bytes * kPageSlots;
    }
  }
  return all;
}

void SequenceCache::set_page(std::size_t layer, std::size_t page, PageRef ref) {
  storage_[layer].table[page] = ref ? ref->data() : nullptr;
  storage_[layer].pages[page] = std::move(ref);
}

Status SequenceCache::own(std::size_t layer, std::size_t page, int64_t used) {
  const PageRef& old = storage_[layer].pages[page];
  if (old && old.sole()) return {};
  TANDEM_ASSIGN_OR_RETURN(PageRef fresh, KvPage::allocate(storage_[layer].page_bytes));
  if (old && used > 0) {
    for (const Strip& strip : strips(layer)) {
      std::memcpy(fresh->data() + strip.offset, old->data() + strip.offset,
                  static_cast<std::size_t>(used * strip.row_bytes));
    }
  }
  set_page(layer, page, std::move(fresh));
  return {};
}

Status SequenceCache::prepare(int64_t start, int64_t count) {
  if (start < 0 || count < 0 || count > max_context_ - start) {
    return {Code::kContextLength, std::to_string(count) + " tokens at position " + std::to_string(start) +
                                      " do not fit a KV cache of " + std::to_string(max_context_)};
  }
  const int64_t before = high_water_;
  written(start + count);
  for (std::size_t i = 0; i < storage_.size(); ++i) {
    const Layer& layer = storage_[i];
    const int64_t most = std::min(count, layer.slots);  // a step longer than a ring is no use, but does no harm
    int64_t slot = layer.ring ? (start + count - most) % layer.slots : start;
    for (int64_t left = most; left > 0;) {
      const int64_t page = slot / kPageSlots, first = page * kPageSlots;
      const int64_t page_end = std::min(first + kPageSlots, layer.slots), end = std::min(slot + left, page_end);
      // Not copied: pages that are overwritten as a whole, and rows that were never written, whose memory that would
      // commit.
      const bool whole = slot == first && end == page_end;
      const int64_t used = whole ? 0 : std::clamp<int64_t>(before - first, 0, kPageSlots);
      TANDEM_RETURN_IF_ERROR(own(i, static_cast<std::size_t>(page), used));
      left -= end - slot;
      slot = end == layer.slots ? 0 : end;
    }
  }
  return {};
}

int64_t SequenceCache::oldest(std::size_t layer) const {
  const Layer& storage = storage_[layer];
  return std::max(storage.lost, storage.ring ? high_water_ - storage.slots : 0);
}

bool SequenceCache::holds(int64_t position) const {
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const int64_t first = layers_[i].window > 0 ? std::max<int64_t>(0, position - layers_[i].window + 1) : 0;
    if (first < position && first < oldest(i)) return false;
  }
  return true;
}

int64_t SequenceCache::resume_from() const {
  int64_t least = 1;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (oldest(i) > 0 && layers_[i].window > 1) least = std::max(least, oldest(i) + layers_[i].window - 1);
  }
  return least;
}

void SequenceCache::reset() {
  high_water_ = 0;
  for (std::size_t i = 0; i < storage_.size(); ++i) {
    storage_[i].lost = 0;
    for (std::size_t page = 0; page < storage_[i].pages.size(); ++page) {
      const PageRef& ref = storage_[i].pages[page];
      if (ref && !ref.sole()) set_page(i, page, {});
    }
  }
}

std::vector<PageUse> SequenceCache::pages() const {
  std::vector<PageUse> all;
  for (const Layer& layer : storage_) {
    for (const PageRef& page : layer.pages) {
      if (page) all.push_back({page.get(), page->bytes()});
    }
  }
  return all;
}

uint64_t SequenceCache::bytes() const {
  uint64_t total = 0;
  for (const PageUse& page : pages()) total += page.bytes;
  return total;
}

uint64_t SequenceCache::own_bytes() const {
  uint64_t total = 0;
  for (const Layer& layer : storage_) {
    for (const PageRef& page : layer.pages) {
      if (page && page.sole()) total += page->bytes();
    }
  }
  return total;
}

}  // namespace tandem
