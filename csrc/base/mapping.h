// Anonymous memory, RAII: zeroed, page-aligned, and committed by the operating system page by page on first touch.
// Depends on base/status.h.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "base/status.h"

namespace tandem {

struct Unmap {
  std::size_t bytes = 0;
  void operator()(void* memory) const;
};
using Mapping = std::unique_ptr<void, Unmap>;

// Reserves `bytes` (> 0). kOutOfMemory names `what`.
Result<Mapping> reserve(std::size_t bytes, const std::string& what);

}  // namespace tandem
