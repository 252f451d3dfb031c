// What a bundle takes of a GPU's memory: a lower bound, from which the largest part of what does not fit is refused
// before the device is asked. Depends on bundle, memory_plan.h.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"
#include "bundle/reader.h"
#include "engine/memory_plan.h"

namespace tandem {

struct GpuMemoryInputs {
  bool shares_weights = false;  // the model's lie there once; else once for each of its graphs, of which two run
  bool drafter = false;
};

// The plan of one session whose cache has the bundle's context; nothing of it is this process's memory.
MemoryPlan plan_gpu_memory(const Bundle& bundle, const GpuMemoryInputs& inputs);

// kOutOfMemory, with the parts, when the plan does not fit into `device_bytes` (0: the device does not tell).
Status check_gpu_memory(const Bundle& bundle, const MemoryPlan& plan, const std::string& device, uint64_t device_bytes);

}  // namespace tandem
