#include "capi/objects.h"

#include <unistd.h>

#include "capi/handles.h"

namespace tandem::capi {
namespace {

// Never destroyed: threads may still use handles while the process ends.
auto& engines() {
  static auto& table = *new HandleTable<EngineObject, 1>;
  return table;
}
auto& sessions() {
  static auto& table = *new HandleTable<SessionObject, 2>;
  return table;
}

template <class Handle>
uint64_t number(Handle* handle) {
  return reinterpret_cast<uintptr_t>(handle);
}

// `object` if it can be used; otherwise nullptr, and the error is noted.
template <class Object>
std::shared_ptr<Object> usable(std::shared_ptr<Object> object, const void* handle, const char* what) {
  if (object != nullptr && object->process == getpid()) return object;
  const std::string name = what;
  if (handle == nullptr) {
    fail(TANDEM_BAD_HANDLE, "the " + name + " handle is NULL");
  } else if (object == nullptr) {
    fail(TANDEM_BAD_HANDLE, "the handle is not that of an open " + name + "; it was closed, or never was one");
  } else {
    fail(TANDEM_BAD_HANDLE, "the " + name + " belongs to the parent process; open another after fork()");
  }
  return nullptr;
}

}  // namespace

tandem_engine* add(std::shared_ptr<EngineObject> object) {
  object->process = getpid();
  return reinterpret_cast<tandem_engine*>(static_cast<uintptr_t>(engines().insert(std::move(object))));
}

tandem_session* add(std::shared_ptr<SessionObject> object) {
  object->process = getpid();
  return reinterpret_cast<tandem_session*>(static_cast<uintptr_t>(sessions().insert(std::move(object))));
}

std::shared_ptr<EngineObject> find(tandem_engine* handle) {
  return usable(engines().find(number(handle)), handle, "engine");
}

std::shared_ptr<SessionObject> find(tandem_session* handle) {
  return usable(sessions().find(number(handle)), handle, "session");
}

std::shared_ptr<EngineObject> remove(tandem_engine* handle) {
  return find(handle) == nullptr ? nullptr : usable(engines().remove(number(handle)), handle, "engine");
}

std::shared_ptr<SessionObject> remove(tandem_session* handle) {
  return find(handle) == nullptr ? nullptr : usable(sessions().remove(number(handle)), handle, "session");
}

}  // namespace tandem::capi
