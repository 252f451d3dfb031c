// What the engine needs of a target model, whatever graphs run it: append tokens to a cache, with or without logits.
// Thread-safe: calls are serialised, since all signatures of a compiled model share one interpreter.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>

#include "base/status.h"

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
};

class Target {
 public:
  virtual ~Target() = default;

  virtual int64_t context() const = 0;  // tokens that a cache can hold
  virtual int64_t vocab_size() const = 0;
  virtual Result<std::unique_ptr<TargetCache>> new_cache() = 0;
  // Most tokens that score() takes in one step, which costs less than a step for each.
  virtual int64_t step_rows() const { return 1; }

  // Appends `ids` at positions start, start+1, ... to the cache, without logits. Stops with kCancelled between chunks
  // when `cancelled` turns true; `*done` says how many ids are in the cache, whatever the status.
  virtual Status prefill(TargetCache& cache, int64_t start, std::span<const int32_t> ids,
                         const std::atomic<bool>& cancelled, int64_t* done) = 0;

  // Appends `ids` and writes the logits after each, float32 [ids.size(), vocab_size], to `logits`. `*done` as above.
  virtual Status score(TargetCache& cache, int64_t start, std::span<const int32_t> ids,
                       const std::atomic<bool>& cancelled, float* logits, int64_t* done) = 0;
};

}  // namespace tandem
