#include "model/packed_weights.h"

#include <cstring>

#include "base/huge_pages.h"
#include "bundle/flatbuffer.h"

namespace tandem {
namespace {

constexpr uint64_t kLayout = 4;               // of the file, where it begins
constexpr uint64_t kMaxListBytes = 64 << 20;  // a sound list has some 50 bytes per matrix

uint64_t word(std::span<const std::byte> bytes, std::size_t at) {
  uint64_t value = 0;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

}  // namespace

Result<PackedWeights> PackedWeights::open(const std::string& path, int fd) {
  const std::string name = path.empty() ? "/proc/self/fd/" + std::to_string(fd) : path;
  PackedWeights weights;
  // Another engine may have mapped the same file of the folder, and may end before this one.
  if (path.empty()) weights.bytes_ = mapped_file(name);
  if (weights.bytes_.empty()) {
    TANDEM_ASSIGN_OR_RETURN(weights.own_, FileMap::open(name, FileMap::Access::kReadOnly));
    weights.bytes_ = weights.own_.bytes();
    prefer_huge_pages(weights.bytes_.data(), weights.bytes_.size());
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
