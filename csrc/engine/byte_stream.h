// Plain values one after the other in a buffer, as memory has them: what sessions and prefixes keep in a snapshot's
// metadata. Depends on nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace tandem {

class ByteWriter {
 public:
  template <class T>
  void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    put_bytes(std::as_bytes(std::span(&value, 1)));
  }
  void put_bytes(std::span<const std::byte> bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

// Every call says whether there was that much; after a false one the values are not to be used.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <class T>
  bool get(T* value) {
    static_assert(std::is_trivially_copyable_v<T>);
    std::span<const std::byte> from;
    if (!get_bytes(sizeof(T), &from)) return false;
    std::memcpy(value, from.data(), sizeof(T));
    return true;
  }
  bool get_bytes(uint64_t count, std::span<const std::byte>* out) {
    if (count > bytes_.size()) return false;
    *out = bytes_.first(static_cast<std::size_t>(count));
    bytes_ = bytes_.subspan(static_cast<std::size_t>(count));
    return true;
  }
  bool at_end() const { return bytes_.empty(); }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace tandem
