// A bounded view of an untrusted flatbuffer: every offset, vtable, vector and string is checked against the end of the
// bytes before it is followed. The first fault is kept in the reader; from then on everything reads as absent or 0, so
// that callers check `ok()` once, after a group of reads. Nothing recurses. Depends on base/status.h.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

namespace tandem {

static_assert(std::endian::native == std::endian::little, "flatbuffers are little-endian and are read as they lie");

class FlatTable;
class FlatVector;

class FlatReader {
 public:
  // `max_visits` bounds the tables and vector elements that may be read: tables can be shared, so that a small file
  // could otherwise describe an endless walk.
  FlatReader(std::span<const std::byte> bytes, uint64_t max_visits) : bytes_(bytes), visits_left_(max_visits) {}

  FlatTable root();

  bool ok() const { return error_.empty(); }
  const std::string& error() const { return error_; }  // the first fault and its byte position
  void fail(uint64_t at, const std::string& what);     // also for faults that the caller finds

 private:
  friend class FlatTable;
  friend class FlatVector;

  bool fits(uint64_t at, uint64_t count) const { return at <= bytes_.size() && count <= bytes_.size() - at; }
  template <class T>
  T load(uint64_t at);           // 0 and a fault when it lies outside
  uint64_t follow(uint64_t at);  // position that the 32-bit offset stored at `at` points to; 0 after a fault
  bool visit(uint64_t at);
  FlatTable table_at(uint64_t at);
  std::string_view string_at(uint64_t at);

  std::span<const std::byte> bytes_;
  uint64_t visits_left_;
  std::string error_;
};

// A table; `slot` numbers fields in the schema's order, from 0. False when absent.
class FlatTable {
 public:
  FlatTable() = default;
  explicit operator bool() const { return reader_ != nullptr; }
  uint64_t position() const { return at_; }

  bool has(int slot) const { return field(slot, 1) != 0; }
  template <class T>
  T scalar(int slot, T absent = T{}) const {
    const uint64_t at = field(slot, sizeof(T));
    return at == 0 ? absent : reader_->load<T>(at);
  }
  FlatTable table(int slot) const;
  std::string_view string(int slot) const;  // empty when absent
  FlatVector vector(int slot, size_t element_bytes) const;

 private:
  friend class FlatReader;

  uint64_t field(int slot, uint64_t bytes) const;  // position of the field's data, or 0

  FlatReader* reader_ = nullptr;
  uint64_t at_ = 0, bytes_ = 0;  // the table
  uint64_t vtable_ = 0, vtable_bytes_ = 0;
};

class FlatVector {
 public:
  uint32_t size() const { return size_; }
  uint64_t position() const { return at_; }  // of the first element

  template <class T>
  T scalar(uint32_t i) const {  // T must have the element size that the vector was opened with
    return element(i) ? reader_->load<T>(at_ + uint64_t{i} * sizeof(T)) : T{};
  }
  FlatTable table(uint32_t i) const;  // vectors of tables are opened with element size 4

 private:
  friend class FlatTable;

  bool element(uint32_t i) const { return i < size_ && reader_->visit(at_); }

  FlatReader* reader_ = nullptr;
  uint64_t at_ = 0;
  uint32_t size_ = 0;
};

template <class T>
T FlatReader::load(uint64_t at) {
  T value{};
  if (!ok()) return value;
  if (!fits(at, sizeof(T))) {
    fail(at, "a value lies outside the buffer");
    return value;
  }
  std::memcpy(&value, bytes_.data() + at, sizeof(T));
  return value;
}

}  // namespace tandem
