// RAII handles over the C API: environment, model, compiled model, tensor buffer. Each destroys itself, in reverse
// order of creation when declared in that order, and keeps the function table alive. Depends on library.h.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/mapping.h"
#include "base/status.h"
#include "litert/library.h"

namespace tandem::litert {

// Unique ownership of one C handle; `Destroy` names the table entry that frees it.
template <class Raw, void (*Library::*Destroy)(Raw)>
class Handle {
 public:
  Handle() = default;
  Handle(std::shared_ptr<const Library> library, Raw raw) : library_(std::move(library)), raw_(raw) {}
  Handle(Handle&& other) noexcept : library_(std::move(other.library_)), raw_(std::exchange(other.raw_, nullptr)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(library_, other.library_);
    std::swap(raw_, other.raw_);
    return *this;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    if (raw_ != nullptr) ((*library_).*Destroy)(raw_);
  }
  Raw get() const { return raw_; }
  const std::shared_ptr<const Library>& library() const { return library_; }

 private:
  std::shared_ptr<const Library> library_;
  Raw raw_ = nullptr;
};

using Environment = Handle<RtEnvironment, &Library::DestroyEnvironment>;
using ModelHandle = Handle<RtModel, &Library::DestroyModel>;
using CompiledHandle = Handle<RtCompiledModel, &Library::DestroyCompiledModel>;
using TensorBuffer = Handle<RtTensorBuffer, &Library::DestroyTensorBuffer>;

// A silent environment that knows the CPU only.
Result<Environment> create_environment(std::shared_ptr<const Library> library);

// Name, element type and shape of one input or output.
struct TensorInfo {
  std::string name;
  RtRankedTensorType type{};

  std::vector<int64_t> shape() const;
  int64_t elements() const;
  std::size_t bytes() const;  // of the packed tensor; only element types that Tandem binds (f32, i32, bool)
};

// One callable graph of a model, in binding order.
struct Signature {
  std::string key;
  ParamIndex index = 0;
  std::vector<TensorInfo> inputs;
  std::vector<TensorInfo> outputs;
};

// A .tflite inside a file, with its signatures read. The file descriptor is duplicated by the library.
class Model {
 public:
  static Result<Model> from_fd(const Environment& environment, int fd, std::size_t offset, std::size_t bytes);
  const std::vector<Signature>& signatures() const { return signatures_; }
  RtModel get() const { return handle_.get(); }

 private:
  ModelHandle handle_;
  std::vector<Signature> signatures_;
};

// An operator that the host implements. `kernel` is copied; `user` must outlive the compiled model.
struct CustomOp {
  std::string name;
  RtCustomOpKernel kernel{};
  void* user = nullptr;
};

// How a model is compiled for the CPU.
struct CpuOptions {
  int num_threads = 1;
  std::string weight_cache_path;            // XNNPACK's packed weights; empty: weight_cache_fd or none
  int weight_cache_fd = -1;                 // a memfd when there is no place to write
  std::vector<std::string> signature_keys;  // compile these only; empty: all
  std::vector<CustomOp> custom_ops;
};

// A model ready to run. One thread at a time: all signatures share one interpreter and one thread pool.
class CompiledModel {
 public:
  CompiledModel() = default;
  explicit CompiledModel(CompiledHandle handle) : handle_(std::move(handle)) {}
  static Result<CompiledModel> create(const Environment& environment, const Model& model, const CpuOptions& options);

  // Runs one signature; buffers in the signature's order. The library's own message is part of an error.
  Status run(const Signature& signature, std::vector<RtTensorBuffer>& inputs,
             std::vector<RtTensorBuffer>& outputs) const;
  RtCompiledModel get() const { return handle_.get(); }

 private:
  CompiledHandle handle_;
};

// 64-byte aligned, zeroed, lazily committed host memory with the tail that XNNPACK may read, bound as one tensor.
class HostTensor {
 public:
  static Result<HostTensor> create(std::shared_ptr<const Library> library, const TensorInfo& info);
  RtTensorBuffer buffer() const { return buffer_.get(); }
  template <class T>
  T* data() const {
    return static_cast<T*>(memory_.get());
  }
  std::size_t bytes() const { return bytes_; }

 private:
  Mapping memory_;
  std::size_t bytes_ = 0;
  TensorBuffer buffer_;  // after memory_: destroyed first
};

}  // namespace tandem::litert
