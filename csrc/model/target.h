// What the engine needs of a target model, whatever graphs run it: append tokens to a cache, with or without logits.
// Thread-safe: calls are serialised, since all signatures of a compiled model share one interpreter.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "kv/snapshot.h"

namespace tandem {

// The KV cache of one sequence. Single owner.
class TargetCache {
 public:
  virtual ~TargetCache() = default;
  // Forgets positions from `position` on; returns how many tokens are still usable: `position`, or 0 when a ring has
  // already overwritten what the layers would need to go on from there.
  virtual int64_t rewind(int64_t position) = 0;
  // Bytes reserved for keys and values; those of tokens that were never there take no memory.
  virtual uint64_t bytes() const = 0;
  // A cache with the same content; neither sees what is written to the other later. May run on several threads at once
  // while nobody writes. kOutOfMemory where content has to be copied.
  virtual Result<std::unique_ptr<TargetCache>> clone() const = 0;
  // The least position above 0 that rewind() keeps.
  virtual int64_t resume_from() const = 0;
  // What it holds in memory, for whoever counts that; caches that share a page report the same id.
  virtual std::vector<PageUse> pages() const = 0;
};

// Rows of a prompt whose embeddings are given instead of looked up: an image, or sound.
struct SoftRows {
  int64_t first = 0;              // position in the sequence
  int64_t rows = 0;               //
  const float* values = nullptr;  // [rows, hidden size]
  bool block = false;             // an image: its rows see each other in sliding layers, later ones too; else causal

  int64_t end() const { return first + rows; }
};

// How many of the `take` tokens from `position` on a step may have, so that it holds blocks as a whole: `take`, or
// fewer to end before a block, or more when a block begins right at `position`.
inline int64_t whole_blocks(std::span<const SoftRows> soft, int64_t position, int64_t take) {
  for (const SoftRows& rows : soft) {
    if (!rows.block || position + take <= rows.first || position + take >= rows.end()) continue;
    return rows.first > position ? rows.first - position : rows.end() - position;
  }
  return take;
}

class Target {
 public:
  virtual ~Target() = default;

  virtual int64_t context() const = 0;  // tokens that a cache can hold
  virtual int64_t vocab_size() const = 0;
  virtual Result<std::unique_ptr<TargetCache>> new_cache() = 0;
  // Most tokens that score() takes in one step, which costs less than a step for each.
  virtual int64_t step_rows() const { return 1; }

  // Appends `ids` at positions start, start+1, ... to the cache, without logits. Where `soft` (in order, apart from
  // each other) has rows, those count and the ids do not; blocks lie between `start` and the end as a whole. Stops with
  // kCancelled between chunks when `cancelled` turns true; `*done` says how many ids are in the cache, whatever the
  // status, and is never inside a block.
  virtual Status prefill(TargetCache& cache, int64_t start, std::span<const int32_t> ids,
                         std::span<const SoftRows> soft, const std::atomic<bool>& cancelled, int64_t* done) = 0;

  // Appends `ids` and writes the logits after each, float32 [ids.size(), vocab_size], to `logits`. `*done` as above.
  virtual Status score(TargetCache& cache, int64_t start, std::span<const int32_t> ids,
                       const std::atomic<bool>& cancelled, float* logits, int64_t* done) = 0;

  // Writes `snapshot`, with what the cache holds below snapshot.position, to a file that appears as a whole or not at
  // all. kInvalidRequest where such caches cannot be saved; kIo.
  virtual Status save(const TargetCache& cache, const std::string& path, const Snapshot& snapshot) const = 0;
  // Fills a new cache from such a file of the same bundle; errors (as restore_snapshot()) leave it as it was.
  virtual Result<Snapshot> restore(TargetCache& cache, const std::string& path, const Sha256Digest& bundle) const = 0;
};

}  // namespace tandem
