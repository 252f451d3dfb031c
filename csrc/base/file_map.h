// A file mapped into memory, RAII. Sizes and offsets are 64-bit everywhere; errors name the path and the system's text.
// Depends on base/status.h. Thread rule: immutable after open, so const members may be called from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/status.h"

namespace tandem {

class FileMap {
 public:
  enum class Access {
    kReadOnly,         // shared pages of the page cache
    kPrivateWritable,  // copy on write: changes stay in this process and never reach the file
  };

  // Maps the whole file. Nothing is read: pages come in when they are touched.
  static Result<FileMap> open(const std::string& path, Access access);
  // Maps bytes [offset, offset + bytes) of the file; any offset is allowed.
  static Result<FileMap> open_range(const std::string& path, Access access, uint64_t offset, uint64_t bytes);

  FileMap() = default;  // an empty map of no file
  FileMap(FileMap&& other) noexcept { *this = std::move(other); }
  FileMap& operator=(FileMap&& other) noexcept;
  FileMap(const FileMap&) = delete;
  FileMap& operator=(const FileMap&) = delete;
  ~FileMap() { close(); }

  std::span<const std::byte> bytes() const { return {data_, bytes_}; }
  std::span<std::byte> writable_bytes() const;  // empty unless kPrivateWritable

  const std::string& path() const { return path_; }
  int fd() const { return fd_; }                       // owned by this object; -1 when empty or closed
  uint64_t file_bytes() const { return file_bytes_; }  // size of the whole file when it was opened

  // Touching mapped pages behind the end of a file that has shrunk kills the process (SIGBUS): check before long reads.
  Status check_size() const;
  // Copies file bytes into `out` by system calls: unlike the mapping it turns a truncated file or a bad disk into a
  // Status. `offset` counts from the start of the file.
  Status read_at(uint64_t offset, std::span<std::byte> out) const;
  // Gives the file descriptor back; the mapping stays, the two above no longer work.
  void close_file();

 private:
  void close();

  std::string path_;
  int fd_ = -1;
  uint64_t file_bytes_ = 0;
  void* base_ = nullptr;  // start and length as mapped, on a page boundary
  size_t base_bytes_ = 0;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  bool writable_ = false;
};

}  // namespace tandem
