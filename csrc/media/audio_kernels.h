// Inner loops of the sample-rate conversion, once per instruction set. Internal to this layer.
#pragma once

#include <cstdint>

#include "base/cpu_features.h"

namespace tandem {

// The sum of a[i] * b[i], n a multiple of kDotStep; neither needs alignment.
using Dot = float (*)(const float* a, const float* b, int64_t n);
constexpr int64_t kDotStep = 32;

Dot dot_for(Isa isa);

}  // namespace tandem
