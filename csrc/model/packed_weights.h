// The matrices inside XNNPACK's weight cache, found by the index of their buffer in the model. The file's layout is
// that of the LiteRT versions that litert/library.h accepts; whoever uses a matrix checks its contents
// (kernels/linear.h: holds()). A file is mapped; of a memory file it reads the mapping that the backend has made, so
// that the pages are counted once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "base/file_map.h"
#include "base/status.h"

namespace tandem {

class PackedWeights {
 public:
  // Of a file, or else the descriptor of a memory file after a compile that filled it.
  static Result<PackedWeights> open(const std::string& path, int fd);

  // The packed bytes of the model's buffer `index`; empty when there are none. Valid while this lives, and for a memory
  // file the compiled model.
  std::span<const std::byte> find(uint64_t index) const;

 private:
  struct Place {
    uint64_t offset = 0, bytes = 0;
  };

  FileMap own_;
  std::span<const std::byte> bytes_;
  std::map<uint64_t, Place> places_;
};

}  // namespace tandem
