// Whether one more session fits into memory. Caches take memory as they fill, so that what sessions were promised
// counts, not what they hold: a session that was let in can fill its context. Thread-safe. Depends on base.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <utility>

#include "base/status.h"

namespace tandem {

class Admission {
 public:
  // One session's promise; given back when it is destroyed. Must not outlive the Admission.
  class Ticket {
   public:
    Ticket() = default;
    Ticket(Ticket&& other) noexcept
        : admission_(std::exchange(other.admission_, nullptr)), bytes_(other.bytes_), used_(other.used_) {}
    Ticket& operator=(Ticket&&) = delete;
    ~Ticket();

    // What the cache may take now, and how much of that it has taken.
    void update(uint64_t bytes, uint64_t used);

   private:
    friend class Admission;
    Ticket(Admission* admission, uint64_t bytes) : admission_(admission), bytes_(bytes) {}
    Admission* admission_ = nullptr;
    uint64_t bytes_ = 0, used_ = 0;
  };

  // `resident`: bytes that the system counts as available (mapped files) but every step needs. `available` asks the
  // system.
  Admission(std::string model, uint64_t resident, std::function<uint64_t()> available)
      : model_(std::move(model)), resident_(resident), available_(std::move(available)) {}

  // kOutOfMemory, with the numbers, when a cache of `bytes` does not fit beside what is open. `context`: its tokens.
  Result<Ticket> admit(uint64_t bytes, int64_t context);

 private:
  std::string model_;
  uint64_t resident_;
  std::function<uint64_t()> available_;
  std::mutex mutex_;
  int64_t sessions_ = 0;
  uint64_t promised_ = 0, used_ = 0;  // of all tickets
};

}  // namespace tandem
