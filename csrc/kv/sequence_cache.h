// The KV cache of one sequence for the fast path: per layer K and V as [head][slot][head_dim], followed by [head][slot]
// float scales where rows are int8; a ring for sliding layers and a growing row of pages for full ones. Memory is
// reserved for the whole context and committed by the operating system as it fills. Single owner. Depends on base and
// kernels (the view that the kernels read).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/mapping.h"
#include "base/status.h"
#include "kernels/kv_view.h"

namespace tandem {

struct CacheLayer {
  int kv_heads = 0;
  int head_dim = 0;
  int64_t window = 0;  // 0: full attention
};

class SequenceCache {
 public:
  // `max_rows`: most tokens that one step appends; a ring keeps a window and that many more, so that the first row of a
  // step still finds its window after the last row was written, and a short rewind finds everything.
  static Result<std::unique_ptr<SequenceCache>> create(const std::vector<CacheLayer>& layers, int64_t max_context,
                                                       int64_t max_rows, KvType type);
  // Bytes that create() would reserve: the cache of a full context.
  static uint64_t reserved_bytes(const std::vector<CacheLayer>& layers, int64_t max_context, int64_t max_rows,
                                 KvType type);

  KvView k(int layer) const { return views_[static_cast<std::size_t>(layer)].k; }
  KvView v(int layer) const { return views_[static_cast<std::size_t>(layer)].v; }

  // Says that positions up to `end` (exclusive) have been written.
  void written(int64_t end) { high_water_ = high_water_ > end ? high_water_ : end; }

  // Whether every sliding layer still holds the window before `position`.
  bool holds(int64_t position) const;
  // Forgets everything.
  void reset() { high_water_ = 0; }

 private:
  struct Views {
    KvView k, v;
  };

  SequenceCache() = default;

  std::vector<CacheLayer> layers_;
  std::vector<Views> views_;
  std::vector<Mapping> memory_;
  int64_t high_water_ = 0;  // end of what was ever written since the last reset: older ring slots are gone
};

}  // namespace tandem
