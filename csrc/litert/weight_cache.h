// XNNPACK's packed weights on disk. Signatures that share a weight are packed once only with this cache, so it is
// always on. XNNPACK aborts the process when a write to its cache fails (a full disk) and does not check the payload
// that it reads. So packed weights are built in memory (memfd), copied to the cache folder by writes that may fail,
// renamed into place under a lock, and stamped with their size, modification time and a sampled checksum that are
// checked before use. Depends on base.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/status.h"

namespace tandem::litert {

class WeightCache {
 public:
  // `name` identifies bundle, CPU and library; an empty `folder` means memory only. `expected_bytes` is what the packed
  // weights take at most. Never fails for reasons of the folder; kIo when the process's file size limit, which holds
  // for memory files too, is lower than that.
  static Result<WeightCache> prepare(const std::string& folder, const std::string& name, uint64_t expected_bytes);

  WeightCache(WeightCache&&) noexcept;
  WeightCache& operator=(WeightCache&&) noexcept;
  ~WeightCache();

  // For the compile: the path of sound packed weights, or else the descriptor of an empty file to build them in.
  const std::string& path() const { return path_; }
  int fd() const { return memory_fd_; }
  bool warm() const { return warm_; }  // packed weights were found and are sound

  // Runs `make`, which compiles with path() and fd(). When that built the weights and commit() put them into the
  // folder, it runs again, from the file: mapped pages can be dropped and read back, the memory that they were built in
  // cannot. `make` lets go of what it made before. Its first error ends it.
  Status compile(const std::function<Status()>& make);

  // After a successful compile: copies newly built weights into the folder. True when they lie there now, under path():
  // compiling again from it lets go of the memory. A failure (a full disk) costs only the next start.
  bool commit();

 private:
  WeightCache() = default;
  void unlock();

  std::string final_path_;  // empty: memory only
  std::string path_;
  int lock_fd_ = -1;
  int memory_fd_ = -1;
  bool warm_ = false;
};

}  // namespace tandem::litert
