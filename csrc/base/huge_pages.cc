#include "base/huge_pages.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <fstream>
#include <sstream>

namespace tandem {
namespace {

#if defined(__linux__)
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr uint64_t kWindow = uint64_t{256} << 20;  // mapped at a time: what is mapped counts as memory of the process
#endif

}  // namespace

void prefer_huge_pages([[maybe_unused]] const void* memory, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  // madvise() wants the start of a page; a smaller remainder would not hold a huge page anyway.
  const auto start = (reinterpret_cast<uintptr_t>(memory) + 4095) & ~uintptr_t{4095};
  const auto end = reinterpret_cast<uintptr_t>(memory) + bytes;
  if (end < start + kHugePage) return;
  madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
#endif
}

std::span<const std::byte> mapped_file(const std::string& path) {
  struct stat file {};
  if (::stat(path.c_str(), &file) != 0) return {};
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    // begin-end rights offset major:minor inode path
    std::istringstream words(line);
    uint64_t begin = 0, end = 0, offset = 0, inode = 0;
    std::string rights, device;
    char dash = 0;
    words >> std::hex >> begin >> dash >> end >> rights >> offset >> device >> std::dec >> inode;
    if (!words || inode != file.st_ino || offset != 0 || rights.empty() || rights[0] != 'r') continue;
    if (end - begin < static_cast<uint64_t>(file.st_size)) continue;
    return {reinterpret_cast<const std::byte*>(begin), static_cast<std::size_t>(file.st_size)};
  }
  return {};
}

void allocate_huge_pages([[maybe_unused]] int fd, [[maybe_unused]] uint64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE) && defined(MADV_POPULATE_READ)
  if (bytes < kHugePage) return;
  for (uint64_t at = 0; at < bytes; at += kWindow) {
    const uint64_t part = bytes - at < kWindow ? bytes - at : kWindow;
    void* memory = mmap(nullptr, part, PROT_READ, MAP_SHARED, fd, static_cast<off_t>(at));
    if (memory == MAP_FAILED) return;
    const bool taken = madvise(memory, part, MADV_HUGEPAGE) == 0 && madvise(memory, part, MADV_POPULATE_READ) == 0;
    munmap(memory, part);
    if (!taken) return;
  }
#endif
}

}  // namespace tandem
