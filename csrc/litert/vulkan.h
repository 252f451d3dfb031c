// Which GPUs Vulkan offers: names, kinds, memory. LiteRT chooses one itself and tells nobody; on Linux it is one of
// these. Own declarations of the few functions that this takes, of libvulkan.so.1 opened at run time.
// A broken driver can end the process here as in any program: hosts that care ask in a child process first (the Python
// package does). Depends on base.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace tandem::litert {

struct VulkanDevice {
  std::string name;
  std::string kind;           // "discrete", "integrated", "virtual", "cpu" or "other"
  uint64_t memory_bytes = 0;  // the largest heap of its own; system memory where it has none
  bool hardware() const { return kind == "discrete" || kind == "integrated" || kind == "virtual"; }
};

// Empty when the drivers offer none; kBackend, with the reason, when there is no loader or it fails.
Result<std::vector<VulkanDevice>> vulkan_devices();

}  // namespace tandem::litert
