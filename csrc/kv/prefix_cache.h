// Finished prefixes of an engine's sessions, so that a new session that begins alike need not compute them again: token
// ids and media contents -> a state (a cloned cache and what goes with it), the least recently used given up when the
// budget is full. A state serves every request with which it shares a beginning that it can be rewound to, not only
// those that contain it whole.
//
// The index is an ordered map of whole keys rather than a radix tree: in that order, the keys that share the longest
// beginning with a request are its neighbours, so that a search gives the same answer with a tenth of the code. Keys
// cost 8 bytes per token, next to some 10000 for its keys and values.
//
// Bytes are those of the distinct pages that the states hold: what two states share counts once, what only live
// sessions hold does not count, and what a state shares with a live session counts, as the state outlives it.
// Depends on base. Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/sha256.h"
#include "kv/sequence_cache.h"

namespace tandem {

// Soft tokens [start, start + length) of a sequence stand for media with this content: the digest must cover everything
// that their keys and values depend on (the bytes, and how they were prepared).
struct MediaSpan {
  int64_t start = 0, length = 0;
  Sha256Digest digest{};
};

// What identifies the beginning of a sequence. Ids within a media span are not looked at. Spans are in order, apart,
// and within the tokens.
struct PrefixKey {
  std::span<const int32_t> tokens;
  std::span<const MediaSpan> media;
};

class PrefixCache {
 public:
  explicit PrefixCache(uint64_t budget_bytes) : budget_(budget_bytes) {}

  struct Hit {
    std::shared_ptr<const void> state;  // null: nothing to begin with
    int64_t state_tokens = 0;           // that the state has
    int64_t tokens = 0;  // of them, how many to keep: rewind a clone of the state to here, then go on with the request
  };

  // The state with the longest usable common beginning, at most `most` tokens of it (a session that wants logits leaves
  // the last token to compute). A media span is used whole or not at all: its tokens see each other.
  Hit find(const PrefixKey& request, int64_t most);

  // Keeps `state`, which has exactly the tokens of `key` and must not change any more. `resume_from`: the least
  // position it can be rewound to (SequenceCache::resume_from()); `pages`: what it holds. False when it is not worth
  // keeping: it is empty, larger than the budget, or another state covers it. States that it covers are dropped.
  bool insert(const PrefixKey& key, std::shared_ptr<const void> state, int64_t resume_from,
              std::span<const PageUse> pages);

  // Every state, the last used first.
  std::vector<std::shared_ptr<const void>> states() const;
  // Gives a state up, if it is there.
  void erase(const void* state);

  // Changing the budget gives up states until they fit.
  void set_budget(uint64_t bytes);
  void clear();

  struct Stats {
    int64_t lookups = 0, hits = 0;
    int64_t tokens_asked = 0;   // of all lookups
    int64_t tokens_reused = 0;  // of the hits
    int64_t insertions = 0, evictions = 0;
    int64_t entries = 0;
    uint64_t bytes = 0, budget = 0;
  };
  Stats stats() const;

 private:
  using MediumName = std::pair<Sha256Digest, int64_t>;  // content and length
  using Symbols = std::vector<uint64_t>;                // one per token, equal just if tokens or media are
  struct Entry {
    std::shared_ptr<const void> state;
    int64_t resume_from = 0;
    std::vector<PageUse> pages;
    std::vector<MediumName> media;
    uint64_t used = 0;  // time of the last use
  };
  using Entries = std::map<Symbols, Entry>;
  struct Medium {
    uint64_t id = 0;
    int64_t entries = 0;
  };
  struct Page {
    uint64_t bytes = 0;
    int64_t entries = 0;
  };

  static bool valid(const PrefixKey& key);
  // A medium that no entry has gets an id that no entry has.
  Symbols symbols(const PrefixKey& key) const;
  void erase(Entries::iterator entry);
  void release(const std::vector<MediumName>& media);
  // Gives up states until the budget suffices.
  void shrink();

  mutable std::mutex mutex_;
  uint64_t budget_;
  Entries entries_;
  std::map<MediumName, Medium> media_;           // of the entries
  std::unordered_map<const void*, Page> pages_;  // of the entries
  uint64_t bytes_ = 0;
  uint64_t next_medium_ = 1;
  uint64_t clock_ = 0;
  Stats stats_;
};

}  // namespace tandem
