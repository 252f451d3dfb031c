// Shared by the binding files: how a Status becomes a Python exception. One init function per topic.
#pragma once

#include <pybind11/pybind11.h>

#include "base/status.h"
#include "engine/memory_plan.h"
#include "engine/stats.h"

namespace tandem::bindings {

// Raises tandem_lm._native.NativeError(code, message). The only place where the core's errors become exceptions.
[[noreturn]] void raise(const Status& status);

inline void check(const Status& status) {
  if (!status.ok()) raise(status);
}
template <class T>
T take(Result<T> result) {
  if (!result.ok()) raise(result.status());
  return std::move(result).value();
}

void init_bundle(pybind11::module_& module);
void init_tokenizer(pybind11::module_& module);
void init_engine(pybind11::module_& module);
void init_session(pybind11::module_& module);
void init_memory(pybind11::module_& module);
void init_media(pybind11::module_& module);

// Bytes by part.
pybind11::dict plan_dict(const MemoryPlan& plan);
// Counters by name.
pybind11::dict stats_dict(const Stats& stats);

}  // namespace tandem::bindings
