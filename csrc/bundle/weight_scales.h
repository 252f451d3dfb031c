// Where a model (.tflite) keeps the scales of its quantised matrices: in a tensor's quantisation (one float32 for each
// output), or with blocks in a buffer of their own (float16). Depends on base/status.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <span>

#include "base/status.h"

namespace tandem {

struct WeightScales {
  uint64_t offset = 0, bytes = 0;  // in the model
};

// By the index of the matrix's buffer, for all of `buffers`. kBundle when the model is damaged or lacks one.
Result<std::map<uint64_t, WeightScales>> find_scales(std::span<const std::byte> model,
                                                     const std::set<uint64_t>& buffers);

}  // namespace tandem
