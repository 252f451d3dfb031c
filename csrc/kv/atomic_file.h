// A file that appears under its name as a whole or not at all: written beside it, synced, then renamed. Depends on
// base/status.h. Single owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/status.h"

namespace tandem {

class AtomicFile {
 public:
  // `bytes`: its size when it is done. Only its owner may read the file. kIo names the path and the system's text.
  static Result<AtomicFile> create(const std::string& path, uint64_t bytes);

  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();  // without commit() nothing remains

  Status append(std::span<const std::byte> bytes);
  // Overwrites what append() has written.
  Status write_at(uint64_t offset, std::span<const std::byte> bytes);
  Status commit();

 private:
  AtomicFile() = default;
  Status failure(const char* action) const;
  Status write(uint64_t offset, std::span<const std::byte> bytes);

  std::string path_, temporary_;
  int fd_ = -1;
  uint64_t end_ = 0;
};

}  // namespace tandem
