// The KV cache of one sequence for the fast path. Per layer a table of pages of kPageSlots tokens; a ring of them for
// sliding layers, a growing row for full ones. Within a page: K as [head][slot][head_dim], V likewise, then, where rows
// are int8, [head][slot] float scales of K and of V. Single owner. Depends on base and kernels (the view they read).
//
// clone() copies the tables; a page is copied when one of its holders first writes to it, in prepare(). Why pages and
// not copy-on-write mappings of a memfd, which would have kept rows contiguous (measured on the 12B shape with 12
// layers and 32768 tokens, 253 MiB): remapping the parent took 8 to 20 ms, both sides then paid 14 ms of page faults
// and 15 ms to unmap, a second clone would have had to copy what was dirty, and it is Linux only. Pages clone in some
// microseconds everywhere, let caches of one prefix share what they have in common, and can lie in a mapped file.
// Their price: a kernel's block of keys ends at the end of a page. kPageSlots is a multiple of both sizes of such
// blocks (kernels.h: 64 and 96); against contiguous rows, one-row decode over a sliding layer was up to 6 % slower with
// f16, 10 % with int8, 16 % with f32 (4 rows: 21 %), all else within noise. With 64 slots f16 lost 8 to 20 %; with 384
// nothing, but twice as much is copied at divergence.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/status.h"
#include "kernels/kv_view.h"
#include "kv/page.h"

namespace tandem {

struct CacheLayer {
  int kv_heads = 0;
  int head_dim = 0;
  int64_t window = 0;  // 0: full attention
};

// A page that a cache holds, for whoever counts memory: caches that share it report the same id.
struct PageUse {
  const void* id = nullptr;
  uint64_t bytes = 0;
};

class SequenceCache {
 public:
  static constexpr int64_t kPageSlots = 192;
  static constexpr int64_t kMostContext = int64_t{1} << 24;

  // `max_rows`: most tokens that one step appends; a ring keeps a window and that many more, so that the first row of a
  // step still finds its window after the last row was written, and a short rewind finds everything.
  static Result<std::unique_ptr<SequenceCache>> create(const std::vector<CacheLayer>& layers, int64_t max_context,
                                                       int64_t max_rows, KvType type);
  // Bytes of a cache that is full.
  static uint64_t reserved_bytes(const std::vector<CacheLayer>& layers, int64_t max_context, int64_t max_rows,
                                 KvType type);

  // A cache with the same content; neither sees what is written to the other later. Costs a few bytes per page; may run
  // on several threads at once while nobody writes.
  std::unique_ptr<SequenceCache> clone() const;

  // A clone whose steps may append more rows, up to position `start`, which holds() must accept: full layers share
  // their pages, rings are laid out anew with what they hold. holds() says of positions up to `start` what it said.
  Result<std::unique_ptr<SequenceCache>> widened(int64_t start, int64_t max_rows) const;

  // The views stay valid as long as the cache does; a page moves only in prepare() and reset().
  KvView k(int layer) const { return views_[static_cast<std::size_t>(layer)].k; }
  KvView v(int layer) const { return views_[static_cast<std::size_t>(layer)].v; }

  // Must precede writing: makes the rows of positions [start, start + count) this cache's own. From here on holds()
  // takes them for written, whatever comes of the step. kContextLength: they are not all within the context.
  // kOutOfMemory: nothing that holds() promises is lost.
  Status prepare(int64_t start, int64_t count);
  // Says that positions up to `end` (exclusive) have been written; prepare() implies it.
  void written(int64_t end) { high_water_ = high_water_ > end ? high_water_ : end; }

  // Whether every sliding layer still holds the window before `position`.
  bool holds(int64_t position) const;
  // The least position above 0 from which on holds() is true.
  int64_t resume_from() const;
  // Forgets everything. Pages of its own are kept for reuse, shared ones are let go.
  void reset();

  const std::vector<CacheLayer>& layers() const { return layers_; }
  KvType type() const { return type_; }
  int64_t max_context() const { return max_context_; }
  int64_t max_rows() const { return max_rows_; }
  int64_t high_water() const { return high_water_; }

  std::vector<PageUse> pages() const;
  uint64_t bytes() const;      // of all pages, whether touched or not
  uint64_t own_bytes() const;  // of those that no other cache shares

 private:
  friend class SnapshotCodec;  // lays the pages out in a file
  struct Layer {
    int64_t slots = 0;
    bool ring = false;
    int64_t lost = 0;  // positions below this are gone, whatever the ring has room for
    std::size_t page_bytes = 0;
    std::vector<PageRef> pages;  // null where nothing was written
    std::vector<char*> table;    // their memory, for the views
  };
  struct Views {
    KvView k, v;
  };
  // Bytes of a page that hold rows of one head: `row_bytes` each, slot 0 at `offset`.
  struct Strip {
    int64_t offset = 0, row_bytes = 0;
  };

  SequenceCache() = default;
  SequenceCache(const SequenceCache&) = delete;
  SequenceCache& operator=(const SequenceCache&) = delete;

  void set_views();
  // The least position whose row a layer still has.
  int64_t oldest(std::size_t layer) const;
  // Every strip of one of the layer's pages, in the order of their offsets; together they are the page.
  std::vector<Strip> strips(std::size_t layer) const;
  void set_page(std::size_t layer, std::size_t page, PageRef ref);
  // Makes one page writable. Of its content, `used` slots (from the first on) are kept.
  Status own(std::size_t layer, std::size_t page, int64_t used);

  std::vector<CacheLayer> layers_;
  std::vector<Layer> storage_;
  std::vector<Views> views_;
  KvType type_ = KvType::kF32;
  int64_t max_context_ = 0;
  int64_t max_rows_ = 0;
  int64_t high_water_ = 0;  // end of what was ever written since the last reset: older ring slots are gone
};

}  // namespace tandem
