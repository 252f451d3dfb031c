#include "litert/weight_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <span>
#include <utility>
#include <vector>

#include "base/sha256.h"

namespace tandem::litert {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kSampledPages = 256;  // evenly spaced, first and last included: 1 MiB of reading at most

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
      const ssize_t got = pread(fd, sampled.data() + i * kPage, kPage, static_cast<off_t>(page * kPage));
      complete = got > 0;
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

bool has_room(const std::string& folder, uint64_t bytes) {
  struct statvfs info {};
  return statvfs(folder.c_str(), &info) == 0 && static_cast<uint64_t>(info.f_bavail) * info.f_frsize > bytes;
}

}  // namespace

Result<WeightCache> WeightCache::prepare(const std::string& folder, const std::string& name, uint64_t expected_bytes) {
  WeightCache cache;
  if (!folder.empty()) {
    std::error_code ignored;
    std::filesystem::create_directories(folder, ignored);
    cache.final_path_ = folder + "/" + name + ".xnnpack";
    cache.lock_fd_ = open((cache.final_path_ + ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (cache.lock_fd_ >= 0 && flock(cache.lock_fd_, LOCK_EX) == 0) {
      const std::string stamp = stamp_of(cache.final_path_);
      if (!stamp.empty() && stamp == read_small(cache.final_path_ + ".stamp")) {
        cache.compile_path_ = cache.final_path_;
        cache.warm_ = true;
        close(std::exchange(cache.lock_fd_, -1));
        return cache;
      }
      if (has_room(folder, expected_bytes)) {
        cache.compile_path_ = cache.final_path_ + "." + std::to_string(getpid()) + ".tmp";
        unlink(cache.compile_path_.c_str());
        return cache;
      }
    }
  }
  cache.release();
  cache.memory_fd_ = memfd_create("tandem-weights", MFD_CLOEXEC);
  if (cache.memory_fd_ < 0) {
    return Status(Code::kOutOfMemory, std::string("cannot create memory for packed weights: ") + std::strerror(errno) +
                                          "; set TANDEM_CACHE_DIR to a writable folder");
  }
  return cache;
}

void WeightCache::commit() {
  if (memory_fd_ >= 0 || warm_) return;
  if (std::rename(compile_path_.c_str(), final_path_.c_str()) == 0) {
    compile_path_.clear();
    write_small(final_path_ + ".stamp", stamp_of(final_path_));
  }
  release();
}

void WeightCache::release() {
  if (!warm_ && !compile_path_.empty()) unlink(compile_path_.c_str());
  compile_path_.clear();
  if (lock_fd_ >= 0) close(std::exchange(lock_fd_, -1));
}

WeightCache::WeightCache(WeightCache&& other) noexcept
    : final_path_(std::move(other.final_path_)),
      compile_path_(std::exchange(other.compile_path_, {})),
      lock_fd_(std::exchange(other.lock_fd_, -1)),
      memory_fd_(std::exchange(other.memory_fd_, -1)),
      warm_(other.warm_) {}

WeightCache& WeightCache::operator=(WeightCache&& other) noexcept {
  std::swap(final_path_, other.final_path_);
  std::swap(compile_path_, other.compile_path_);
  std::swap(lock_fd_, other.lock_fd_);
  std::swap(memory_fd_, other.memory_fd_);
  std::swap(warm_, other.warm_);
  return *this;
}

WeightCache::~WeightCache() {
  release();
  if (memory_fd_ >= 0) close(memory_fd_);
}

}  // namespace tandem::litert
