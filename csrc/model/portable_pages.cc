#include "model/portable_pages.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

namespace tandem {
namespace {

struct Place {
  bool keys = false;
  std::size_t layer = 0;
  int64_t heads = 0, context = 0, width = 0;
};

std::optional<Place> place_of(const litert::TensorInfo& tensor) {
  constexpr std::string_view kKeys = "kv_cache_k_", kValues = "kv_cache_v_";
  Place place;
  const std::string_view name = tensor.name;
  place.keys = name.starts_with(kKeys);
  if (!place.keys && !name.starts_with(kValues)) return std::nullopt;
  const char* end = name.data() + name.size();
  if (std::from_chars(name.data() + kKeys.size(), end, place.layer).ptr != end) return std::nullopt;
  const std::vector<int64_t> shape = tensor.shape();
  if (shape.size() != 4 || shape[0] != 1 || tensor.type.element_type != litert::kFloat32) return std::nullopt;
  place.heads = shape[1];
  place.context = place.keys ? shape[2] : shape[3];
  place.width = place.keys ? shape[3] : shape[2];
  return place;
}

// Calls visit(row in the pages, its first value, distance of its values) for every position and head.
template <class Visit>
void each_row(const litert::TensorInfo& tensor, const SequenceCache& pages, int64_t count, const Visit& visit) {
  const std::optional<Place> place = place_of(tensor);
  if (!place) return;
  const KvView view = place->keys ? pages.k(static_cast<int>(place->layer)) : pages.v(static_cast<int>(place->layer));
  for (int64_t head = 0; head < place->heads; ++head) {
    const int64_t base = head * place->context * place->width;
    for (int64_t token = 0; token < count; ++token) {
      const int64_t first = base + (place->keys ? token * place->width : token);
      visit(static_cast<float*>(view.row(token, static_cast<int>(head))), first, place->keys ? 1 : place->context,
            place->width);
    }
  }
}

}  // namespace

Result<std::unique_ptr<SequenceCache>> portable_pages(const std::vector<litert::TensorInfo>& tensors) {
  const Status malformed(Code::kBundle, "the bundle's graphs have a cache of another form; convert the model again");
  std::vector<CacheLayer> layers(tensors.size() / 2);
  std::vector<int> seen(layers.size());
  int64_t context = 0;
  for (const litert::TensorInfo& tensor : tensors) {
    const std::optional<Place> place = place_of(tensor);
    if (!place || place->layer >= layers.size()) return malformed;
    const CacheLayer layer{static_cast<int>(place->heads), static_cast<int>(place->width), 0};
    CacheLayer& known = layers[place->layer];
    if (context == 0) context = place->context;
    if (seen[place->layer] == 0) known = layer;
    seen[place->layer] |= place->keys ? 1 : 2;
    if (known.kv_heads != layer.kv_heads || known.head_dim != layer.head_dim || place->context != context) {
      return malformed;
    }
  }
  if (layers.empty() || std::any_of(seen.begin(), seen.end(), [](int parts) { return parts != 3; })) return malformed;
  return SequenceCache::create(layers, context, 1, KvType::kF32);
}

void tensor_to_pages(const litert::TensorInfo& tensor, const float* values, int64_t count, SequenceCache& pages) {
  each_row(tensor, pages, count, [&](float* row, int64_t first, int64_t stride, int64_t width) {
    for (int64_t i = 0; i < width; ++i) row[i] = values[first + i * stride];
  });
}

void pages_to_tensor(const SequenceCache& pages, const litert::TensorInfo& tensor, int64_t count, float* values) {
  each_row(tensor, pages, count, [&](const float* row, int64_t first, int64_t stride, int64_t width) {
    for (int64_t i = 0; i < width; ++i) values[first + i * stride] = row[i];
  });
}

}  // namespace tandem
