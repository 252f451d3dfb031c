// Packed weights on disk: XNNPACK's, and our own (model/packed_weights.h). Signatures that share a weight are packed
// once only with XNNPACK's cache, so it is always on. XNNPACK aborts the process when a write to its cache fails (a
// full disk) and does not check the payload that it reads: its weights are built in memory (memfd) and copied to the
// cache folder by writes that may fail; ours are written there. A file is renamed into place under a lock, and stamped
// with its size, modification time and a sampled checksum that are checked before use. Depends on base.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/status.h"

namespace tandem::litert {

class WeightCache {
 public:
  // `name` of the file identifies bundle, CPU and library; an empty `folder` means memory only. `expected_bytes` is
  // what the packed weights take at most. Never fails for reasons of the folder; kIo when the process's file size
  // limit, which holds for memory files too, is lower than that.
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

  // For weights that `write` packs itself, into an empty file of which at most `bytes` are used: in the folder where
  // there is room, else in memory. path() or fd() tell where. Does nothing when they lie there already. An error of
  // `write` is returned, but for kIo in the folder.
  Status fill(uint64_t bytes, const std::function<Status(int fd)>& write);

  // After a successful compile: copies newly built weights into the folder. True when they lie there now, under path():
  // compiling again from it lets go of the memory. A failure (a full disk) costs only the next start.
  bool commit();

 private:
  WeightCache() = default;
  void unlock();
  std::string temporary_path() const;
  // A complete file at temporary_path() becomes the one that is used; false and no file when it cannot.
  bool place();

  std::string final_path_;  // empty: memory only
  std::string path_;
  int lock_fd_ = -1;
  int memory_fd_ = -1;
  bool warm_ = false;
};

}  // namespace tandem::litert
