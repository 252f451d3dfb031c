// Quantised matrices from the form that bundles have to the one that linear() reads (linear.h describes it).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/linear.h"

namespace tandem {

// Outputs of a matrix as a bundle stores them: weights [outputs][inputs] int8, or int4 two to a byte, low nibble first;
// float scales [outputs], or with blocks float16 scales [outputs][inputs / block].
struct RawRows {
  const std::byte* weights = nullptr;
  const std::byte* scales = nullptr;
};

// Whether block scales of `outputs` outputs, `count` each, fit into `byte_scales`: positive, 5 bits of significand
// behind the point, all of an output within 8 octaves. The converter rounds them so; other tools may not.
bool fit_bytes(const std::byte* scales, int64_t outputs, int64_t count);

// Writes group_bytes() of `matrix`, whose data is not looked at: its outputs are the first group() of `rows`. False
// when a scale is no finite positive number, or does not fit `byte_scales`.
bool pack_group(const PackedMatrix& matrix, const RawRows& rows, std::byte* out);

}  // namespace tandem
