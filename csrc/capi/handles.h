// Handles of the C ABI: numbers that name an object in a table, each with the count of its slot's uses, so that a stale
// or made-up handle is recognised without touching memory. Thread-safe. Depends on nothing.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace tandem::capi {

static_assert(sizeof(void*) == 8,
              "a handle takes 64 bits: 32 of the slot's generation, 4 of the kind, 28 of the index");

template <class T, uint64_t kKind>
class HandleTable {
 public:
  // 0 when the table is full. May throw std::bad_alloc.
  uint64_t insert(std::shared_ptr<T> object) {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) {
      if (slots_.size() > kMaxIndex) return 0;
      free_.reserve(slots_.size() + 1);  // remove() must not fail
      slots_.emplace_back();
      free_.push_back(slots_.size() - 1);
    }
    const uint64_t index = free_.back();
    free_.pop_back();
    Slot& slot = slots_[index];
    slot.object = std::move(object);
    return slot.generation << 32 | kKind << 28 | index;
  }

  // nullptr for anything but a live handle of this table.
  std::shared_ptr<T> find(uint64_t handle) {
    const std::lock_guard lock(mutex_);
    Slot* slot = slot_of(handle);
    return slot != nullptr ? slot->object : nullptr;
  }

  // The same, and ends the handle.
  std::shared_ptr<T> remove(uint64_t handle) {
    const std::lock_guard lock(mutex_);
    Slot* slot = slot_of(handle);
    if (slot == nullptr || slot->object == nullptr) return nullptr;
    // A slot whose count is used up stays out of use: no handle is ever given out twice.
    if (slot->generation++ < kMaxGeneration) free_.push_back(handle & kMaxIndex);
    return std::exchange(slot->object, nullptr);
  }

 private:
  static constexpr uint64_t kMaxIndex = (uint64_t{1} << 28) - 1;
  static constexpr uint64_t kMaxGeneration = std::numeric_limits<uint32_t>::max();
  static_assert(kKind < 16);

  struct Slot {
    uint64_t generation = 1;  // so that no handle is 0
    std::shared_ptr<T> object;
  };

  Slot* slot_of(uint64_t handle) {
    const uint64_t index = handle & kMaxIndex;
    if ((handle >> 28 & 15) != kKind || index >= slots_.size() || slots_[index].generation != handle >> 32) {
      return nullptr;
    }
    return &slots_[index];
  }

  std::mutex mutex_;
  std::vector<Slot> slots_;
  std::vector<uint64_t> free_;
};

}  // namespace tandem::capi
