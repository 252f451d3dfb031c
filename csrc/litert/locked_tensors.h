// The memory behind the tensors of a custom operator's call. Depends on library.h.
#pragma once

#include <vector>

#include "litert/library.h"

namespace tandem::litert {

// Pointers to the tensors of one operator call, unlocked at the end.
class LockedTensors {
 public:
  LockedTensors(const Library& api, int mode) : api_(api), mode_(mode) {}
  ~LockedTensors() {
    for (const RtTensorBuffer buffer : locked_) static_cast<void>(api_.UnlockTensorBuffer(buffer));
  }
  LockedTensors(const LockedTensors&) = delete;
  LockedTensors& operator=(const LockedTensors&) = delete;

  // nullptr when the library refuses.
  template <class T>
  T* get(RtTensorBuffer buffer) {
    void* memory = nullptr;
    if (api_.LockTensorBuffer(buffer, &memory, mode_) != kRtOk) return nullptr;
    locked_.push_back(buffer);
    return static_cast<T*>(memory);
  }

 private:
  const Library& api_;
  int mode_;
  std::vector<RtTensorBuffer> locked_;
};

}  // namespace tandem::litert
