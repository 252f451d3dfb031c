// Makes a long saved session out of a short one: the same tokens over and over, keys and values that are random. To
// measure what depth costs without hours of prefill; the text that follows means nothing.
//
//     bench_deepen_session BUNDLE SAVED DEPTH MAX_CONTEXT OUT
//
// SAVED: by an engine with f16 keys and values and this max_context, as the one that will restore OUT must be.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "bundle/reader.h"
#include "kv/snapshot.h"

namespace {

using namespace tandem;

constexpr int64_t kRows = 1024;  // written at a time

std::vector<CacheLayer> layers_of(const ModelSpec& spec) {
  std::vector<CacheLayer> layers;
  for (const LayerSpec& layer : spec.layers) layers.push_back({layer.kv_heads, layer.head_dim, layer.window});
  return layers;
}

// Numbers of a unit normal distribution, as float16: one long row to take others from.
std::vector<_Float16> noise(std::size_t count) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<_Float16> out(count);
  for (_Float16& value : out) value = static_cast<_Float16>(normal(random));
  return out;
}

void fill(const KvView& view, const CacheLayer& layer, int64_t first, int64_t last,
          const std::vector<_Float16>& values) {
  const auto width = static_cast<std::size_t>(layer.head_dim);
  std::size_t from = static_cast<std::size_t>(first) * 7919;
  for (int64_t token = first; token < last; ++token) {
    for (int head = 0; head < layer.kv_heads; ++head) {
      from = (from + 97) % (values.size() - width);
      std::copy_n(values.data() + from, width, static_cast<_Float16*>(view.row(token, head)));
    }
  }
}

Status deepen(const std::string& path, const std::string& saved, int64_t depth, int64_t context,
              const std::string& out) {
  TANDEM_ASSIGN_OR_RETURN(const Bundle bundle, Bundle::open(path));
  TANDEM_ASSIGN_OR_RETURN(Snapshot snapshot, read_snapshot(saved));
  if (snapshot.tokens.empty() || depth <= snapshot.position || depth >= context) {
    return {Code::kInvalidRequest, "DEPTH must be more than the saved session has and less than MAX_CONTEXT"};
  }
  const std::vector<CacheLayer> layers = layers_of(bundle.manifest().model);
  TANDEM_ASSIGN_OR_RETURN(const auto cache, SequenceCache::create(layers, context, kRows, KvType::kF16));
  TANDEM_RETURN_IF_ERROR(restore_snapshot(saved, snapshot.bundle, *cache, 1).status());
  const std::vector<_Float16> values = noise(1 << 20);
  for (int64_t first = snapshot.position; first < depth; first += cache->max_rows()) {
    const int64_t last = std::min(first + cache->max_rows(), depth);
    TANDEM_RETURN_IF_ERROR(cache->prepare(first, last - first));
    for (std::size_t i = 0; i < layers.size(); ++i) {
      fill(cache->k(static_cast<int>(i)), layers[i], first, last, values);
      fill(cache->v(static_cast<int>(i)), layers[i], first, last, values);
    }
  }
  snapshot.position = depth;
  // A session has one token more than keys and values.
  for (std::size_t i = 0; static_cast<int64_t>(snapshot.tokens.size()) <= depth; ++i) {
    snapshot.tokens.push_back(snapshot.tokens[1 + i % (snapshot.tokens.size() - 1)]);
  }
  return save_snapshot(out, snapshot, *cache);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr, "usage: bench_deepen_session BUNDLE SAVED DEPTH MAX_CONTEXT OUT\n");
    return 2;
  }
  const Status status = deepen(argv[1], argv[2], std::atoll(argv[3]), std::atoll(argv[4]), argv[5]);
  if (!status.ok()) std::fprintf(stderr, "error: %s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}
