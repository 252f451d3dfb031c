// What the handles of the C ABI stand for, and how an entry point gets at it. Depends on engine.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "capi/error.h"
#include "engine/engine.h"
#include "engine/session.h"
#include "tandem/tandem.h"

namespace tandem::capi {

struct EngineObject {
  std::shared_ptr<Engine> engine;
  int64_t process = 0;  // that opened it
};

struct SessionObject {
  std::unique_ptr<Session> session;
  std::unique_ptr<Generation> generation;  // that was begun; destroyed before the session
  std::string text;                        // of the token that tandem_session_step() gave last
  double prefill_timeout = 0;              // seconds; 0: none
  int64_t process = 0;
  std::atomic<bool> busy = false;       // a call runs
  std::atomic<bool> closed = false;     // ends what runs
  std::atomic<bool> cancelled = false;  // since an image or sound is read, which is before the session knows of it
};

// New handles; nullptr when there is no room in the table.
tandem_engine* add(std::shared_ptr<EngineObject> object);
tandem_session* add(std::shared_ptr<SessionObject> object);

// The object of a live handle; otherwise nullptr, and the error is noted.
std::shared_ptr<EngineObject> find(tandem_engine* handle);
std::shared_ptr<SessionObject> find(tandem_session* handle);

// The same, and ends the handle.
std::shared_ptr<EngineObject> remove(tandem_engine* handle);
std::shared_ptr<SessionObject> remove(tandem_session* handle);

// Makes the calling thread the only one that uses the session, until the end of the scope.
class Turn {
 public:
  explicit Turn(SessionObject& object) : object_(object), taken_(!object.busy.exchange(true)) {}
  ~Turn() {
    if (taken_) object_.busy = false;
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  bool taken() const { return taken_; }

 private:
  SessionObject& object_;
  bool taken_;
};

// Runs body(Engine&) on the engine of a handle.
template <class Body>
tandem_status with_engine(tandem_engine* handle, const Body& body) noexcept {
  return guarded([&]() -> tandem_status {
    const std::shared_ptr<EngineObject> object = find(handle);
    return object == nullptr ? TANDEM_BAD_HANDLE : body(*object->engine);
  });
}

// Runs body(SessionObject&) on the session of a handle, alone.
template <class Body>
tandem_status with_session(tandem_session* handle, const Body& body) noexcept {
  return guarded([&]() -> tandem_status {
    const std::shared_ptr<SessionObject> object = find(handle);
    if (object == nullptr) return TANDEM_BAD_HANDLE;
    const Turn turn(*object);
    if (!turn.taken()) {
      return fail(TANDEM_BUSY, "the session runs another call; wait for it, or stop it with tandem_session_cancel()");
    }
    return body(*object);
  });
}

}  // namespace tandem::capi
