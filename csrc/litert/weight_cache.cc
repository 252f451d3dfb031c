#include "litert/weight_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <span>
#include <utility>
#include <vector>

#include "base/huge_pages.h"
#include "base/sha256.h"

namespace tandem::litert {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kSlack = 16 << 20;    // what padding may add to small models
constexpr uint64_t kSampledPages = 256;  // evenly spaced, first and last included: 1 MiB of reading at most

// Reads up to a page. One that was not in the page cache does not stay there: it would keep the huge page that holds it
// from being read in as one.
bool read_page(int fd, off_t offset, std::byte* out) {
#if defined(RWF_NOWAIT)
  const iovec where{out, kPage};
  if (preadv2(fd, &where, 1, offset, RWF_NOWAIT) > 0) return true;
#endif
  posix_fadvise(fd, offset, kPage, POSIX_FADV_RANDOM);
  const ssize_t got = pread(fd, out, kPage, offset);
  posix_fadvise(fd, offset, kPage, POSIX_FADV_DONTNEED);
  return got > 0;
}

// "size mtime-ns sha256-of-sampled-pages", or empty when the file cannot be read.
std::string stamp_of(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  struct stat info {};
  std::string stamp;
  if (fstat(fd, &info) == 0 && info.st_size > 0) {
    const auto size = static_cast<uint64_t>(info.st_size);
    const uint64_t pages = (size + kPage - 1) / kPage;
    const uint64_t samples = std::min(pages, kSampledPages);
    std::vector<std::byte> sampled(samples * kPage);
    bool complete = true;
    for (uint64_t i = 0; i < samples && complete; ++i) {
      const uint64_t page = samples == 1 ? 0 : i * (pages - 1) / (samples - 1);
      complete = read_page(fd, static_cast<off_t>(page * kPage), sampled.data() + i * kPage);
    }
    if (complete) {
      stamp = std::to_string(size) + " " + std::to_string(info.st_mtim.tv_sec) + "." +
              std::to_string(info.st_mtim.tv_nsec) + " " + to_hex(sha256(sampled));
    }
  }
  close(fd);
  return stamp;
}

std::string read_small(const std::string& path) {
  std::string text(256, '\0');
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  const ssize_t got = read(fd, text.data(), text.size());
  close(fd);
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return text;
}

bool write_small(const std::string& path, const std::string& text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return false;
  const bool written = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  return close(fd) == 0 && written;
}

// Whether this process may write files of this size; the limit holds for memory files too.
bool may_write(uint64_t bytes) {
  struct rlimit limit {};
  return getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= bytes;
}

// Lets `write` fill a new file with room for `bytes`; no file is left when anything fails.
Status write_new(const std::string& path, uint64_t bytes, const std::function<Status(int fd)>& write) {
  const auto failed = [&](const char* what) {
    return Status(Code::kIo, "cannot " + std::string(what) + " '" + path + "': " + std::strerror(errno));
  };
  unlink(path.c_str());
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return failed("create");
  // Asks for the space first, where the file system can: a full disk is then found before gigabytes are written.
  const bool allocated = fallocate(fd, 0, 0, static_cast<off_t>(bytes)) == 0;
  Status status;
  if (allocated) allocate_huge_pages(fd, bytes);
  if (!allocated && errno != EOPNOTSUPP) status = failed("make room for");
  if (status.ok()) status = write(fd);
  if (close(fd) != 0 && status.ok()) status = failed("write");
  if (!status.ok()) unlink(path.c_str());
  return status;
}

// Copies all of `from`.
Status copy(int from, uint64_t bytes, int to) {
  off_t at = 0;
  while (at < static_cast<off_t>(bytes)) {
    const ssize_t sent = sendfile(to, from, &at, static_cast<std::size_t>(bytes) - static_cast<std::size_t>(at));
    if (sent == 0 || (sent < 0 && errno != EINTR)) return {Code::kIo, "cannot copy packed weights"};
  }
  return {};
}

}  // namespace

Result<WeightCache> WeightCache::prepare(const std::string& folder, const std::string& name, uint64_t expected_bytes) {
  WeightCache cache;
  if (!folder.empty()) {
    std::error_code ignored;
    std::filesystem::create_directories(folder, ignored);
    cache.final_path_ = folder + "/" + name;
    cache.lock_fd_ = open((cache.final_path_ + ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (cache.lock_fd_ < 0 || flock(cache.lock_fd_, LOCK_EX) != 0) {
      cache.final_path_.clear();
    } else if (const std::string stamp = stamp_of(cache.final_path_);
               !stamp.empty() && stamp == read_small(cache.final_path_ + ".stamp")) {
      cache.path_ = cache.final_path_;
      cache.warm_ = true;
      cache.unlock();
      return cache;
    }
  }
  const uint64_t needed = expected_bytes + kSlack;
  if (!may_write(needed)) {
    return Status(Code::kIo, "packing the weights writes a file of up to " + std::to_string((needed >> 20) + 1) +
                                 " MiB, more than this process may write; raise the file size limit (ulimit -f)");
  }
  cache.memory_fd_ = memfd_create("tandem-weights", MFD_CLOEXEC);
  if (cache.memory_fd_ < 0) {
    return Status(Code::kOutOfMemory, std::string("cannot create memory for packed weights: ") + std::strerror(errno) +
                                          "; close other programs");
  }
  return cache;
}

Status WeightCache::compile(const std::function<Status()>& make) {
  TANDEM_RETURN_IF_ERROR(make());
  return commit() ? make() : Status();
}

bool WeightCache::commit() {
  struct stat info {};
  if (memory_fd_ < 0 || final_path_.empty() || fstat(memory_fd_, &info) != 0) return false;
  const auto bytes = static_cast<uint64_t>(info.st_size);
  const Status written = write_new(temporary_path(), bytes, [&](int fd) { return copy(memory_fd_, bytes, fd); });
  const bool placed = written.ok() && place();
  unlock();
  return placed;
}

Status WeightCache::fill(uint64_t bytes, const std::function<Status(int fd)>& write) {
  if (warm_) return {};
  if (!final_path_.empty()) {
    const Status written = write_new(temporary_path(), bytes, write);
    if (!written.ok() && written.code() != Code::kIo) return written;
    const bool placed = written.ok() && place();
    unlock();
    if (placed) return {};
  }
  return write(memory_fd_);
}

std::string WeightCache::temporary_path() const { return final_path_ + "." + std::to_string(getpid()) + ".tmp"; }

bool WeightCache::place() {
  const std::string temporary = temporary_path();
  if (std::rename(temporary.c_str(), final_path_.c_str()) != 0) {
    unlink(temporary.c_str());
    return false;
  }
  // Without a stamp the next start builds again, nothing worse.
  write_small(final_path_ + ".stamp", stamp_of(final_path_));
  path_ = final_path_;
  close(std::exchange(memory_fd_, -1));
  return true;
}

void WeightCache::unlock() {
  if (lock_fd_ >= 0) close(std::exchange(lock_fd_, -1));
}

WeightCache::WeightCache(WeightCache&& other) noexcept
    : final_path_(std::move(other.final_path_)),
      path_(std::move(other.path_)),
      lock_fd_(std::exchange(other.lock_fd_, -1)),
      memory_fd_(std::exchange(other.memory_fd_, -1)),
      warm_(other.warm_) {}

WeightCache& WeightCache::operator=(WeightCache&& other) noexcept {
  std::swap(final_path_, other.final_path_);
  std::swap(path_, other.path_);
  std::swap(lock_fd_, other.lock_fd_);
  std::swap(memory_fd_, other.memory_fd_);
  std::swap(warm_, other.warm_);
  return *this;
}

WeightCache::~WeightCache() {
  unlock();
  if (memory_fd_ >= 0) close(memory_fd_);
}

}  // namespace tandem::litert
