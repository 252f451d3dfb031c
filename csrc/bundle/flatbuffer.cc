// Bounds-checked navigation of flatbuffers (format: flatbuffers.dev, "Internals").
#include "bundle/flatbuffer.h"

namespace tandem {

void FlatReader::fail(uint64_t at, const std::string& what) {
  if (ok()) error_ = what + " (at byte " + std::to_string(at) + ")";
}

bool FlatReader::visit(uint64_t at) {
  if (!ok()) return false;
  if (visits_left_ == 0) {
    fail(at, "more elements than any sound file has");
    return false;
  }
  --visits_left_;
  return true;
}

uint64_t FlatReader::follow(uint64_t at) {
  const uint32_t offset = load<uint32_t>(at);
  if (!ok()) return 0;
  if (offset == 0 || !fits(at + offset, sizeof(uint32_t))) {
    fail(at, "an offset points outside the buffer");
    return 0;
  }
  return at + offset;
}

FlatTable FlatReader::root() {
  const uint64_t at = follow(0);
  return ok() ? table_at(at) : FlatTable();
}

FlatTable FlatReader::table_at(uint64_t at) {
  if (!visit(at)) return {};
  const int64_t back = load<int32_t>(at);  // from the table to its vtable, which may lie on either side
  const int64_t vtable = static_cast<int64_t>(at) - back;
  if (ok() && (vtable < 0 || !fits(static_cast<uint64_t>(vtable), 4))) fail(at, "a vtable lies outside the buffer");
  if (!ok()) return {};

  FlatTable table;
  table.at_ = at;
  table.vtable_ = static_cast<uint64_t>(vtable);
  table.vtable_bytes_ = load<uint16_t>(table.vtable_);
  table.bytes_ = load<uint16_t>(table.vtable_ + 2);
  if (table.vtable_bytes_ < 4 || table.vtable_bytes_ % 2 != 0 || !fits(table.vtable_, table.vtable_bytes_)) {
    fail(table.vtable_, "a vtable has an impossible size");
  } else if (table.bytes_ < 4 || !fits(at, table.bytes_)) {
    fail(at, "a table has an impossible size");
  }
  if (!ok()) return {};
  table.reader_ = this;
  return table;
}

std::string_view FlatReader::string_at(uint64_t at) {
  const uint64_t length = load<uint32_t>(at);
  if (!ok()) return {};
  if (!fits(at + 4, length + 1) || bytes_[at + 4 + length] != std::byte{0}) {
    fail(at, "a string does not end inside the buffer");
    return {};
  }
  return {reinterpret_cast<const char*>(bytes_.data()) + at + 4, static_cast<size_t>(length)};
}

uint64_t FlatTable::field(int slot, uint64_t bytes) const {
  const uint64_t entry = 4 + 2 * static_cast<uint64_t>(slot);
  if (reader_ == nullptr || entry + 2 > vtable_bytes_) return 0;
  const uint64_t offset = reader_->load<uint16_t>(vtable_ + entry);
  if (offset == 0 || !reader_->ok()) return 0;
  if (offset < 4 || offset + bytes > bytes_) {
    reader_->fail(at_, "field " + std::to_string(slot) + " lies outside its table");
    return 0;
  }
  return at_ + offset;
}

FlatTable FlatTable::table(int slot) const {
  const uint64_t at = field(slot, 4);
  const uint64_t target = at == 0 ? 0 : reader_->follow(at);
  return target == 0 ? FlatTable() : reader_->table_at(target);
}

std::string_view FlatTable::string(int slot) const {
  const uint64_t at = field(slot, 4);
  const uint64_t target = at == 0 ? 0 : reader_->follow(at);
  return target == 0 ? std::string_view() : reader_->string_at(target);
}

FlatVector FlatTable::vector(int slot, size_t element_bytes) const {
  const uint64_t at = field(slot, 4);
  const uint64_t target = at == 0 ? 0 : reader_->follow(at);
  if (target == 0) return {};
  const uint32_t size = reader_->load<uint32_t>(target);
  if (!reader_->ok()) return {};
  if (!reader_->fits(target + 4, uint64_t{size} * element_bytes)) {
    reader_->fail(target, "a vector does not end inside the buffer");
    return {};
  }
  FlatVector vector;
  vector.reader_ = reader_;
  vector.at_ = target + 4;
  vector.size_ = size;
  return vector;
}

FlatTable FlatVector::table(uint32_t i) const {
  if (!element(i)) return {};
  const uint64_t target = reader_->follow(at_ + uint64_t{i} * 4);
  return target == 0 ? FlatTable() : reader_->table_at(target);
}

}  // namespace tandem
