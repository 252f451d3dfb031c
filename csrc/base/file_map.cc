// POSIX implementation of FileMap.
#include "base/file_map.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <system_error>
#include <utility>

namespace tandem {
namespace {

constexpr uint64_t kWholeFile = std::numeric_limits<uint64_t>::max();
constexpr size_t kMaxReadBytes = size_t{1} << 30;  // one pread moves less than 2 GiB on Linux and macOS

Status io_error(const std::string& path, const std::string& action, int error) {
  return Status(Code::kIo, "cannot " + action + " '" + path + "': " + std::generic_category().message(error));
}

Status shrunk(const std::string& path, uint64_t before, uint64_t now) {
  return Status(Code::kIo, "file '" + path + "' changed while it was in use: it had " + std::to_string(before) +
                               " bytes and now has " + std::to_string(now) + "; open it again");
}

Result<uint64_t> size_of(int fd, const std::string& path) {
  struct stat info;
  if (fstat(fd, &info) != 0) return io_error(path, "stat", errno);
  if (S_ISDIR(info.st_mode)) return io_error(path, "open", EISDIR);
  if (!S_ISREG(info.st_mode)) return Status(Code::kIo, "cannot map '" + path + "': it is not a regular file");
  return static_cast<uint64_t>(info.st_size);
}

}  // namespace

Result<FileMap> FileMap::open(const std::string& path, Access access) {
  return open_range(path, access, 0, kWholeFile);
}

Result<FileMap> FileMap::open_range(const std::string& path, Access access, uint64_t offset, uint64_t bytes) {
  FileMap map;
  map.path_ = path;
  // O_NONBLOCK: opening a pipe by mistake must fail below instead of waiting for a writer. It does nothing to files.
  do {
    map.fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (map.fd_ < 0 && errno == EINTR);
  if (map.fd_ < 0) return io_error(path, "open", errno);
  TANDEM_ASSIGN_OR_RETURN(map.file_bytes_, size_of(map.fd_, path));
  if (bytes == kWholeFile && offset == 0) bytes = map.file_bytes_;
  if (offset > map.file_bytes_ || bytes > map.file_bytes_ - offset) {
    return Status(Code::kIo, "cannot map bytes " + std::to_string(offset) + " to " + std::to_string(offset) + " + " +
                                 std::to_string(bytes) + " of '" + path + "': it has only " +
                                 std::to_string(map.file_bytes_));
  }
  if (bytes == 0) return map;  // mmap refuses empty ranges

  const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t lead = offset % page;
  if (bytes > std::numeric_limits<size_t>::max() - lead) return io_error(path, "map", ENOMEM);
  map.base_bytes_ = static_cast<size_t>(bytes + lead);
  map.writable_ = access == Access::kPrivateWritable;
  const int protection = map.writable_ ? PROT_READ | PROT_WRITE : PROT_READ;
#ifdef MAP_NORESERVE  // few pages are ever written: do not ask for swap space for all of them
  const int flags = map.writable_ ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED;
#else
  const int flags = map.writable_ ? MAP_PRIVATE : MAP_SHARED;
#endif
  void* base = mmap(nullptr, map.base_bytes_, protection, flags, map.fd_, static_cast<off_t>(offset - lead));
  if (base == MAP_FAILED) return io_error(path, "map", errno);
  map.base_ = base;
  map.data_ = static_cast<std::byte*>(base) + lead;
  map.bytes_ = static_cast<size_t>(bytes);
  TANDEM_RETURN_IF_ERROR(map.check_size());
  return map;
}

FileMap& FileMap::operator=(FileMap&& other) noexcept {
  if (this == &other) return *this;
  close();
  path_ = std::exchange(other.path_, {});
  fd_ = std::exchange(other.fd_, -1);
  file_bytes_ = std::exchange(other.file_bytes_, 0);
  base_ = std::exchange(other.base_, nullptr);
  base_bytes_ = std::exchange(other.base_bytes_, 0);
  data_ = std::exchange(other.data_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  writable_ = std::exchange(other.writable_, false);
  return *this;
}

void FileMap::close() {
  if (base_ != nullptr) munmap(base_, base_bytes_);
  base_ = nullptr;
  close_file();
}

void FileMap::close_file() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

std::span<std::byte> FileMap::writable_bytes() const {
  if (!writable_) return {};
  return {data_, bytes_};
}

Status FileMap::check_size() const {
  if (fd_ < 0) return Status();
  TANDEM_ASSIGN_OR_RETURN(const uint64_t now, size_of(fd_, path_));
  return now == file_bytes_ ? Status() : shrunk(path_, file_bytes_, now);
}

Status FileMap::read_at(uint64_t offset, std::span<std::byte> out) const {
  if (offset > file_bytes_ || out.size() > file_bytes_ - offset) {
    return Status(Code::kIo, "cannot read " + std::to_string(out.size()) + " bytes at " + std::to_string(offset) +
                                 " of '" + path_ + "': it has only " + std::to_string(file_bytes_));
  }
  while (!out.empty()) {
    const ssize_t got = pread(fd_, out.data(), std::min(out.size(), kMaxReadBytes), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return io_error(path_, "read", errno);
    if (got == 0) return shrunk(path_, file_bytes_, offset);
    offset += static_cast<uint64_t>(got);
    out = out.subspan(static_cast<size_t>(got));
  }
  return Status();
}

}  // namespace tandem
