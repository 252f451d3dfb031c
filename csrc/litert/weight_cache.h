// XNNPACK's packed weights on disk. Signatures that share a weight are packed once only with this cache, so it is
// always on: a file in the cache folder, or memory (memfd) when nothing can be written there. The library writes the
// final path directly and does not check the payload, so the file is built beside it under a lock, renamed into place,
// and stamped with its size, modification time and a sampled checksum that are checked before use. Depends on base.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"

namespace tandem::litert {

class WeightCache {
 public:
  // `name` identifies bundle, CPU and library. `expected_bytes` is what the packed weights will take: a folder without
  // that much room (or an empty `folder`) means memory. Never fails for reasons of the folder.
  static Result<WeightCache> prepare(const std::string& folder, const std::string& name, uint64_t expected_bytes);

  WeightCache(WeightCache&&) noexcept;
  WeightCache& operator=(WeightCache&&) noexcept;
  ~WeightCache();  // removes what was not committed, releases the lock

  const std::string& path() const { return compile_path_; }  // for the compile; empty: use fd()
  int fd() const { return memory_fd_; }
  bool warm() const { return warm_; }  // packed weights were found and are sound

  // After a successful compile: moves a newly built file into place and stamps it. A failure costs only the next start.
  void commit();

 private:
  WeightCache() = default;
  void release();

  std::string final_path_;
  std::string compile_path_;
  int lock_fd_ = -1;
  int memory_fd_ = -1;
  bool warm_ = false;
};

}  // namespace tandem::litert
