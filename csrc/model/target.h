// What the engine needs of a target model, whatever graphs run it: append tokens to a cache, with or without logits.
// One step at a time, since all signatures of a compiled model share one interpreter: whoever calls sees to that
// (engine/scheduler.h), prefill() by the gate that it asks before each of its steps.
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
  // How many of them have been taken and need not be taken again.
  virtual uint64_t used_bytes() const = 0;
  // A cache with the same content; neither sees what is written to the other later. May run on several threads at once
  // while nobody writes. kOutOfMemory where content has to be copied.
  virtual Result<std::unique_ptr<TargetCache>> clone() const = 0;
  // As clone(), but to be kept and not used: its own clone() is one for use. A target whose memory is dear keeps it
  // elsewhere.
  virtual Result<std::unique_ptr<TargetCache>> parked() const { return clone(); }
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

// Asked before every step of a call that takes several.
class StepGate {
 public:
  virtual ~StepGate() = default;
  // Waits until the caller may run a step; leave() must follow it. After an error (kCancelled, ...) no step may run.
  virtual Status enter() = 0;
  virtual void leave() = 0;
  // Whether a step that runs may be given up: its result is not wanted.
  virtual const std::atomic<bool>& cancelled() const = 0;
};

// One step behind a gate: may run when status() is ok, and ends with the object.
class StepTurn {
 public:
  explicit StepTurn(StepGate& gate) : gate_(gate), status_(gate.enter()) {}
  ~StepTurn() {
    if (status_.ok()) gate_.leave();
  }
  StepTurn(const StepTurn&) = delete;
  StepTurn& operator=(const StepTurn&) = delete;

  const Status& status() const { return status_; }

 private:
  StepGate& gate_;
  Status status_;
};

class Target;

// Tokens of one sequence in a step that may hold those of others too. A cache occurs once in a step.
struct ScoreItem {
  TargetCache* cache = nullptr;
  int64_t start = 0;             // position of the first
  std::span<const int32_t> ids;  //
  float* logits = nullptr;       // [ids.size(), vocab_size]
  int64_t done = 0;              // how many ids are in the cache now, their logits written
  Status status = {};            // of this item; others may have fared better
  Target* target = nullptr;      // whose cache it is, for the scheduler; nullptr: the one that it was made for
};

class Target {
 public:
  virtual ~Target() = default;

  virtual int64_t context() const = 0;  // tokens that a cache can hold
  virtual int64_t vocab_size() const = 0;
  virtual Result<std::unique_ptr<TargetCache>> new_cache() = 0;
  // Most tokens of all items together that score() takes in one step, which costs less than a step for each.
  virtual int64_t step_rows() const { return 1; }

  // Appends `ids` at positions start, start+1, ... to the cache, without logits. Where `soft` (in order, apart from
  // each other) has rows, those count and the ids do not; blocks lie between `start` and the end as a whole. Stops when
  // the gate lets no further step in; `*done` says how many ids are in the cache, whatever the status, and is never
  // inside a block.
  virtual Status prefill(TargetCache& cache, int64_t start, std::span<const int32_t> ids,
                         std::span<const SoftRows> soft, StepGate& gate, int64_t* done) = 0;

  // One step: appends each item's ids to its cache and writes the logits after each of them. Results do not depend on
  // what else is in the step. Items have step_rows() ids together, or there is one item only, of which it may take the
  // beginning (`done`). Where step_rows() is 1, items of a step run one after the other.
  virtual void score(std::span<ScoreItem* const> items) = 0;

  // Writes `snapshot`, with what the cache holds below snapshot.position, to a file that appears as a whole or not at
  // all. kInvalidRequest where such caches cannot be saved; kIo.
  virtual Status save(const TargetCache& cache, const std::string& path, const Snapshot& snapshot) const = 0;
  // Fills a new cache from such a file of the same bundle; errors (as restore_snapshot()) leave it as it was.
  virtual Result<Snapshot> restore(TargetCache& cache, const std::string& path, const Sha256Digest& bundle) const = 0;
};

}  // namespace tandem
