#include "kv/atomic_file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <system_error>
#include <utility>

namespace tandem {
namespace {

constexpr std::size_t kMostAtOnce = std::size_t{1} << 30;  // one write moves less than 2 GiB on Linux and macOS

}  // namespace

Status AtomicFile::failure(const char* action) const {
  return {Code::kIo, std::string("cannot ") + action + " '" + path_ + "': " + std::generic_category().message(errno)};
}

Result<AtomicFile> AtomicFile::create(const std::string& path, uint64_t bytes) {
  static std::atomic<uint64_t> serial = 0;  // two threads may write files of one name
  AtomicFile file;
  file.path_ = path;
  struct rlimit limit {};  // beyond it a signal would end the process
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < bytes) {
    return Status(Code::kIo, "cannot write '" + path + "': it takes " + std::to_string(bytes) +
                                 " bytes, more than this process may write to a file; raise the limit (ulimit -f)");
  }
  const std::string temporary = path + "." + std::to_string(getpid()) + "-" + std::to_string(serial++) + ".tmp";
  file.fd_ = open(temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file.fd_ < 0) return file.failure("create");
  file.temporary_ = temporary;
  return file;
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      fd_(std::exchange(other.fd_, -1)),
      end_(other.end_) {}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) close(fd_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

Status AtomicFile::write(uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = pwrite(fd_, bytes.data(), std::min(bytes.size(), kMostAtOnce), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return failure("write");
    offset += static_cast<uint64_t>(put);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
  return {};
}

Status AtomicFile::append(std::span<const std::byte> bytes) {
  TANDEM_RETURN_IF_ERROR(write(end_, bytes));
  end_ += bytes.size();
  return {};
}

Status AtomicFile::write_at(uint64_t offset, std::span<const std::byte> bytes) { return write(offset, bytes); }

Status AtomicFile::commit() {
  if (fsync(fd_) != 0) return failure("sync");
  if (close(std::exchange(fd_, -1)) != 0) return failure("close");
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) return failure("put in place");
  temporary_.clear();
  // The name is durable once its folder is; a system that cannot sync a folder has no other way.
  const std::size_t slash = path_.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
  if (const int fd = open(folder.c_str(), O_RDONLY | O_CLOEXEC); fd >= 0) {
    fsync(fd);
    close(fd);
  }
  return {};
}

}  // namespace tandem
