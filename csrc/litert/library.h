// libLiteRt.so, or another library with LiteRT's C API, opened at run time: nothing is linked, so one build serves
// every place the library may lie in. Thread-safe after open(). Depends on base.
#pragma once

#include <memory>
#include <string>

#include "base/status.h"
#include "litert/c_api.h"

namespace tandem::litert {

// The function table. Kept alive by everything that uses it; the shared object is never unloaded, since its own
// threads and static destructors may outlive the last handle.
class Library {
 public:
  // `path` of libLiteRt.so. kBackend when it cannot be opened or lacks a function (another version of the library).
  static Result<std::shared_ptr<const Library>> open(const std::string& path);

#define TANDEM_LITERT_MEMBER(name, result, arguments) result(*name) arguments = nullptr;
  TANDEM_LITERT_FUNCTIONS(TANDEM_LITERT_MEMBER)
#undef TANDEM_LITERT_MEMBER

  // Whether a GPU accelerator is part of the library itself, as in liblitert-lm.so, and not a file beside it: only such
  // a one can look into the library's C++ objects, which sharing constants takes.
  bool has_gpu() const { return has_gpu_; }

  // Identity of the file (size and modification time), part of the weight cache's name: packed weights must not
  // survive a change of the library that packed them.
  const std::string& identity() const { return identity_; }

 private:
  std::string identity_;
  bool has_gpu_ = false;
};

// The library's name of a status number, for messages.
const char* status_name(RtStatus status);

// kBackend (or kCancelled) with "what: NAME (number)"; kOk for 0.
Status to_status(RtStatus status, const std::string& what);

}  // namespace tandem::litert
