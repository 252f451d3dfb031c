// The finished prefixes of an engine's sessions, in memory and, if a folder was given, in files that other processes
// find there: what kv/prefix_cache.h is to plain states, for the caches of a target. Files are written by flush() only,
// so that no session waits for a disk. Thread-safe. Depends on kv, model.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "base/sha256.h"
#include "base/status.h"
#include "kv/prefix_cache.h"
#include "model/target.h"

namespace tandem {

class PrefixStore {
 public:
  static constexpr int64_t kLeastTokens = 16;  // shorter beginnings are as soon computed as shared

  // `bytes` bounds the memory, and the files likewise. `dir` may be empty: memory alone. Its subfolder `name` must tell
  // everything apart that makes caches differ, but for their tokens. `target` must outlive the store. kIo when the
  // folder cannot be made or read.
  static Result<std::unique_ptr<PrefixStore>> open(Target& target, const Sha256Digest& bundle, uint64_t bytes,
                                                   const std::string& dir, const std::string& name);

  struct Found {
    std::unique_ptr<TargetCache> cache;  // null: nothing worth beginning with
    int64_t tokens = 0;                  // of the request that it holds
  };
  // A cache with the longest known beginning of the request.
  Found find(const PrefixKey& request);
  // Keeps what `cache` holds, which is at least the tokens of `key`. No error when there is no memory for it.
  void insert(const PrefixKey& key, const TargetCache& cache);

  // Writes what is in memory and has no file yet, and removes the files that the budget has no room for. Nothing to do
  // without a folder. kIo: some are not written.
  Status flush();

  struct Stats {
    int64_t lookups = 0, hits = 0, disk_hits = 0;  // disk_hits: hits whose cache had to be read from a file
    int64_t tokens_asked = 0, tokens_reused = 0;
    int64_t entries = 0, disk_entries = 0, evictions = 0;
    uint64_t bytes = 0, disk_bytes = 0, budget = 0;
  };
  Stats stats() const;

 private:
  struct Key {
    std::vector<int32_t> tokens;
    std::vector<MediaSpan> media;
    PrefixKey view() const { return {tokens, media}; }
  };
  struct State {
    Key key;
    std::unique_ptr<const TargetCache> cache;
  };
  struct File {
    Key key;
    std::string path;
    uint64_t bytes = 0;
  };

  PrefixStore(Target& target, const Sha256Digest& bundle, uint64_t bytes)
      : target_(target), bundle_(bundle), memory_(bytes), disk_(bytes) {}
  void keep(const std::shared_ptr<const State>& state);
  // Makes the index know the files that are there. The caller holds disk_mutex_.
  Status scan();
  Status write(const State& state);
  std::string path_of(const Key& key) const;
  // The state in a file, kept in memory from now on; null when the file cannot be used, which is forgotten then.
  std::shared_ptr<const State> read(const File& file);

  Target& target_;
  Sha256Digest bundle_;
  PrefixCache memory_, disk_;     // states are State and File
  std::string folder_;            // empty: no files
  std::mutex disk_mutex_;         // of scan() and flush(), and of:
  std::set<std::string> listed_;  // the files that the newest scan() saw
  mutable std::mutex stats_mutex_;
  Stats stats_;
};

}  // namespace tandem
