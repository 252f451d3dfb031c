#include "model/packed_weights.h"

#include <sys/stat.h>

#include <cstring>
#include <fstream>
#include <sstream>

#include "bundle/flatbuffer.h"

namespace tandem {
namespace {

constexpr uint64_t kLayout = 4;               // of the file, where it begins
constexpr uint64_t kMaxListBytes = 64 << 20;  // a sound list has some 50 bytes per matrix

// Where this process has mapped the whole file, if it has.
std::span<const std::byte> mapped(const struct stat& file) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    // begin-end rights offset major:minor inode path
    std::istringstream words(line);
    uint64_t begin = 0, end = 0, offset = 0, inode = 0;
    std::string rights, device;
    char dash = 0;
    words >> std::hex >> begin >> dash >> end >> rights >> offset >> device >> std::dec >> inode;
    if (!words || inode != file.st_ino || offset != 0 || rights.empty() || rights[0] != 'r') continue;
    if (end - begin < static_cast<uint64_t>(file.st_size)) continue;
    return {reinterpret_cast<const std::byte*>(begin), static_cast<std::size_t>(file.st_size)};
  }
  return {};
}

uint64_t word(std::span<const std::byte> bytes, std::size_t at) {
  uint64_t value = 0;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

}  // namespace

Result<PackedWeights> PackedWeights::open(const std::string& path, int fd) {
  const std::string name = path.empty() ? "/proc/self/fd/" + std::to_string(fd) : path;
  struct stat file {};
  if (::stat(name.c_str(), &file) != 0) return Status(Code::kIo, "'" + name + "' cannot be read");
  PackedWeights weights;
  weights.bytes_ = mapped(file);
  if (weights.bytes_.empty()) {
    TANDEM_ASSIGN_OR_RETURN(weights.own_, FileMap::open(name, FileMap::Access::kReadOnly));
    weights.bytes_ = weights.own_.bytes();
  }
  const std::span<const std::byte> bytes = weights.bytes_;
  const Status strange(Code::kBackend, "'" + name + "' is no weight cache of a known layout");
  if (bytes.size() < 24 || word(bytes, 0) != kLayout) return strange;
  const uint64_t at = word(bytes, 8), size = word(bytes, 16);
  if (at > bytes.size() || size > bytes.size() - at || size > kMaxListBytes) return strange;

  // BufferList { fingerprints, buffers: [Buffer], base_offset }, Buffer { packing, weights, bias, offset, size }
  FlatReader reader(bytes.subspan(at, size), size);
  const FlatTable list = reader.root();
  const FlatVector buffers = list.vector(1, 4);
  const auto base = list.scalar<uint64_t>(2);
  for (uint32_t i = 0; i < buffers.size() && reader.ok(); ++i) {
    const FlatTable buffer = buffers.table(i);
    const auto offset = buffer.scalar<uint64_t>(3), length = buffer.scalar<uint64_t>(4);
    if (base > bytes.size() || offset > bytes.size() - base || length > bytes.size() - base - offset) return strange;
    weights.places_[buffer.scalar<uint64_t>(1)] = {base + offset, length};
  }
  if (!reader.ok() || weights.places_.empty()) return strange;
  return weights;
}

std::span<const std::byte> PackedWeights::find(uint64_t index) const {
  const auto found = places_.find(index);
  if (found == places_.end()) return {};
  return bytes_.subspan(found->second.offset, found->second.bytes);
}

}  // namespace tandem
