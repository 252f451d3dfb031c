#include "engine/admission.h"

#include <algorithm>
#include <string>

#include "base/memory.h"

namespace tandem {

Result<Admission::Ticket> Admission::admit(uint64_t bytes, int64_t context) {
  const std::lock_guard lock(mutex_);
  const uint64_t available = available_(), to_come = promised_ - used_;
  if (resident_ + to_come + bytes > available) {
    return Status(Code::kOutOfMemory,
                  "no room for another session of '" + model_ + "': with a context of " + std::to_string(context) +
                      " it may take " + gibibytes(bytes) + ", the " + std::to_string(sessions_) +
                      " sessions that are open may still take " + gibibytes(to_come) + " and the weights hold " +
                      gibibytes(resident_) + ", but " + gibibytes(available) +
                      " are available; close a session, or open the engine with a smaller max_context or kv_dtype");
  }
  ++sessions_;
  promised_ += bytes;
  return Ticket(this, bytes);
}

Admission::Ticket::~Ticket() {
  if (admission_ == nullptr) return;
  update(0, 0);
  const std::lock_guard lock(admission_->mutex_);
  --admission_->sessions_;
}

void Admission::Ticket::update(uint64_t bytes, uint64_t used) {
  if (admission_ == nullptr) return;
  const std::lock_guard lock(admission_->mutex_);
  used = std::min(used, bytes);
  admission_->promised_ += bytes - bytes_;
  admission_->used_ += used - used_;
  bytes_ = bytes;
  used_ = used;
}

}  // namespace tandem
