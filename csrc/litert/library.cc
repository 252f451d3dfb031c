#include "litert/library.h"

#include <dlfcn.h>
#include <sys/stat.h>

namespace tandem::litert {

Result<std::shared_ptr<const Library>> Library::open(const std::string& path) {
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* reason = dlerror();
    return Status(Code::kBackend, "cannot open the LiteRT library '" + path + "': " + (reason ? reason : "unknown") +
                                      "; install ai-edge-litert 2.3 or pass the path of its libLiteRt.so");
  }
  auto library = std::make_shared<Library>();
  std::string missing;
#define TANDEM_LITERT_LOAD(name, result, arguments)                                     \
  library->name = reinterpret_cast<result(*) arguments>(dlsym(handle, "LiteRt" #name)); \
  if (library->name == nullptr) missing += missing.empty() ? "LiteRt" #name : ", LiteRt" #name;
  TANDEM_LITERT_FUNCTIONS(TANDEM_LITERT_LOAD)
#undef TANDEM_LITERT_LOAD
  if (!missing.empty()) {
    return Status(Code::kBackend, "the LiteRT library '" + path + "' lacks " + missing +
                                      "; ai-edge-litert >= 2.3, < 2.4 is the tested range");
  }
  const auto* const* accelerator =
      static_cast<const void* const*>(dlsym(handle, "LiteRtStaticLinkedAcceleratorGpuDef"));  // a variable
  library->has_gpu_ = accelerator != nullptr && *accelerator != nullptr;
  struct stat info {};
  if (stat(path.c_str(), &info) == 0) {
    library->identity_ = std::to_string(info.st_size) + "-" + std::to_string(info.st_mtime);
  }
  return std::shared_ptr<const Library>(std::move(library));
}

const char* status_name(RtStatus status) {
  switch (status) {
    case 0:
      return "ok";
    case 1:
      return "invalid argument";
    case 2:
      return "out of memory";
    case 3:
      return "runtime failure";
    case 4:
      return "missing input tensor";
    case 5:
      return "unsupported";
    case 6:
      return "not found";
    case 7:
      return "timeout";
    case 8:
      return "wrong version";
    case 10:
      return "already exists";
    case 100:
      return "cancelled";
    case 500:
      return "file I/O";
    case 501:
      return "invalid flatbuffer";
    case 502:
      return "dynamic loading";
    case 503:
      return "serialization";
    case 504:
      return "compilation";
    case 1000:
      return "index out of bounds";
    default:
      return "error";
  }
}

Status to_status(RtStatus status, const std::string& what) {
  if (status == kRtOk) return {};
  const Code code = status == kRtCancelled ? Code::kCancelled : status == 2 ? Code::kOutOfMemory : Code::kBackend;
  return {code, what + ": " + status_name(status) + " (LiteRT status " + std::to_string(status) + ")"};
}

}  // namespace tandem::litert
