// Numbers and texts from the front of a table, never from beyond its end. Depends on nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace tandem::digest {

class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> data) : data_(data) {}

  bool done() const { return at_ == data_.size(); }

  // A number in LEB128; false where the table ends before it does or it has more than 32 bits.
  bool number(uint32_t* value) {
    uint64_t sum = 0;
    for (unsigned shift = 0; shift < 35 && at_ < data_.size(); shift += 7) {
      const auto byte = std::to_integer<uint64_t>(data_[at_++]);
      sum |= (byte & 0x7F) << shift;
      if (byte < 0x80) {
        *value = static_cast<uint32_t>(sum);
        return sum <= UINT32_MAX;
      }
    }
    return false;
  }

  // The next `bytes` bytes, in place; false where there are fewer.
  bool text(size_t bytes, std::string_view* out) {
    if (bytes > data_.size() - at_) return false;
    *out = {reinterpret_cast<const char*>(data_.data()) + at_, bytes};
    at_ += bytes;
    return true;
  }

 private:
  std::span<const std::byte> data_;
  size_t at_ = 0;
};

}  // namespace tandem::digest
