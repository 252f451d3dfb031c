// Compiled GPU programs on disk. The accelerator writes its file in place, without a lock, and believes what it reads.
// So it gets a folder of this process's own, with a copy of the file when that is sound (by its checksum), and what it
// has made new is checksummed and renamed into the cache folder. Depends on base.
#pragma once

#include <string>

namespace tandem::litert {

class ProgramCache {
 public:
  // `name` identifies bundle, signature, library and GPU. With an empty `folder`, or one that cannot be written, there
  // is no cache: only the next start is slower.
  ProgramCache(const std::string& folder, const std::string& name);
  ~ProgramCache();  // removes the folder of this process
  ProgramCache(const ProgramCache&) = delete;
  ProgramCache& operator=(const ProgramCache&) = delete;

  // For the accelerator's options; empty: no cache.
  const std::string& folder() const { return own_; }
  const std::string& key() const { return key_; }

  // After the compilation: keeps what was made.
  void commit() const;

 private:
  std::string own_, key_, made_, final_;
  bool warm_ = false;
};

}  // namespace tandem::litert
