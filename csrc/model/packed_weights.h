// The target's matrices in the layouts of kernels/linear.h, in a file of the cache folder or in memory: made once from
// the bundle, a few megabytes at a time, and mapped by every engine from then on. The file: magic, count, and of every
// matrix 8 x u64 (buffer's index in the model, inputs, outputs, bits, block, wide, byte_scales, offset), then the
// matrices, each from a multiple of 64 bytes on. Depends on base, bundle, kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "base/file_map.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "kernels/linear.h"
#include "model/weight_table.h"

namespace tandem {

// What the weights are made from.
struct WeightSource {
  const WeightTable& table;
  const FileMap& bundle;
  uint64_t offset = 0;               // of the model's section in it
  std::span<const std::byte> model;  // that section, mapped: its flatbuffer is read there
};

class PackedWeights {
 public:
  // The size of the file; at most, or as it is where all scales of blocks are of the converter's making.
  static uint64_t most_bytes(const WeightTable& table);
  static uint64_t expected_bytes(const WeightTable& table);

  // Writes the file to `fd`, which is empty or has room for it allocated, and cuts it to its size. kBundle where the
  // bundle is damaged, kIo where reading or writing fails: the file is of no use then.
  static Status make(const WeightSource& source, ThreadPool& pool, int fd);

  // Of a file, or else the descriptor of a memory file. kBackend for one that make() has not made.
  static Result<PackedWeights> open(const std::string& path, int fd);

  // The matrix of the model's buffer `index`, without `tiles`; no data when there is none. Valid while this lives.
  PackedMatrix find(uint64_t index) const;

 private:
  FileMap map_;
  std::map<uint64_t, PackedMatrix> matrices_;
};

}  // namespace tandem
