#include "base/mapping.h"

#include <sys/mman.h>

namespace tandem {

void Unmap::operator()(void* memory) const { munmap(memory, bytes); }

Result<Mapping> reserve(std::size_t bytes, const std::string& what) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return Status(Code::kOutOfMemory, "cannot reserve " + std::to_string(bytes >> 20) + " MiB for " + what +
                                          "; lower max_context or close other sessions");
  }
  return Mapping(memory, Unmap{bytes});
}

}  // namespace tandem
