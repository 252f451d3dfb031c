// Huge pages are advice: what a file holds and where it is mapped does not depend on them.
#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "base/file_map.h"
#include "base/huge_pages.h"
#include "check.h"

using namespace tandem;

namespace {

constexpr std::size_t kBytes = (std::size_t{5} << 20) + 123;  // two huge pages and a part of one

// A file that was filled after it got huge pages; removed with the object.
struct Filled {
  std::string path = "huge_pages_test." + std::to_string(getpid());
  std::vector<char> content = std::vector<char>(kBytes);
  bool allocated = false;

  Filled() {
    for (std::size_t i = 0; i < kBytes; ++i) content[i] = static_cast<char>(i * 2654435761u >> 11);
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    allocated = fallocate(fd, 0, 0, static_cast<off_t>(kBytes)) == 0;
    if (allocated) allocate_huge_pages(fd, kBytes);
    for (std::size_t at = 0; at < kBytes;) {
      const ssize_t written = write(fd, content.data() + at, kBytes - at);
      CHECK(written > 0);
      at += static_cast<std::size_t>(written);
    }
    close(fd);
  }
  ~Filled() { unlink(path.c_str()); }
};

}  // namespace

TEST(a_file_with_huge_pages_holds_what_was_written) {
  const Filled file;
  const FileMap map = FileMap::open(file.path, FileMap::Access::kReadOnly).value();
  prefer_huge_pages(map.bytes().data(), map.bytes().size());
  CHECK_EQ(map.bytes().size(), kBytes);
  CHECK(std::memcmp(map.bytes().data(), file.content.data(), kBytes) == 0);
}

TEST(a_mapping_of_a_whole_file_is_found) {
  const Filled file;
  CHECK(mapped_file(file.path).empty());
  const FileMap map = FileMap::open(file.path, FileMap::Access::kReadOnly).value();
  CHECK(mapped_file(file.path).data() == map.bytes().data());
  CHECK_EQ(mapped_file(file.path).size(), kBytes);
  CHECK(mapped_file(file.path + ".not").empty());
}

TEST(advice_on_any_memory_is_harmless) {
  prefer_huge_pages(nullptr, 0);
  std::vector<char> memory(kBytes, 7);
  prefer_huge_pages(memory.data() + 1, memory.size() - 1);
  prefer_huge_pages(memory.data(), 10);
  CHECK(memory.front() == 7 && memory.back() == 7);
  allocate_huge_pages(-1, kBytes);
}
