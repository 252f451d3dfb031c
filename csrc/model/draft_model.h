// What the engine needs of a drafter, wherever it runs: guesses of the next tokens from the target's own cache. Depends
// on target.h.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "model/target.h"

namespace tandem {

class DraftModel {
 public:
  virtual ~DraftModel() = default;

  // Whether draft() can go on from the token at `position`: the newest step has left the hidden state before it.
  virtual bool ready(const TargetCache& cache, int64_t position) const = 0;

  // Drafts `count` tokens to follow `token`, which stands at `position` and is not in the cache yet, while all tokens
  // before it are; never one of `suppressed`, which the target could not accept. Changes nothing in the cache.
  virtual Status draft(TargetCache& cache, int64_t position, int32_t token, int count,
                       std::span<const int32_t> suppressed, std::vector<int32_t>& out) = 0;
};

}  // namespace tandem
