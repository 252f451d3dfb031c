// LiteRT's GPU accelerator (libLiteRtWebGpuAccelerator.so, ML Drift kernels over Dawn: Vulkan on Linux): environment,
// compilation, and tensors that stay on the device. What this accelerator cannot bear is kept from it here and in
// bundle/gpu_check.h. Depends on handles.h.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "litert/handles.h"

namespace tandem::litert {

// An environment that knows the CPU and the GPU. `folder`: where the accelerator's library lies, beside libLiteRt.so;
// of no use where the library has_gpu(). kBackend when there is none that this LiteRT accepts. No driver is touched
// before the first model is compiled.
Result<Environment> create_gpu_environment(std::shared_ptr<const Library> library, const std::string& folder);

// All is computed in float32: in float16 the graphs' masks are infinite and all logits equal (csrc/README.md).
struct GpuOptions {
  bool share_constants = false;             // once on the device for all signatures; only where the library has_gpu()
  std::string cache_dir, cache_name;        // of compiled programs; an empty folder: none are kept
  std::vector<std::string> signature_keys;  // compile these only
};

// Compiles for the GPU alone. kBackend when there is no adapter, or when an operator would have to run elsewhere: a
// graph in pieces would copy the cache between CPU and GPU in every step.
Result<CompiledModel> compile_for_gpu(const Environment& environment, const Model& model, const GpuOptions& options);

// Bytes and calls that crossed the bus. Thread-safe.
struct Transfers {
  std::atomic<uint64_t> uploads = 0, upload_bytes = 0, downloads = 0, download_bytes = 0, runs = 0;
};

// One tensor in the device's memory. Its owner keeps the compiled model alive.
class DeviceTensor {
 public:
  // For the input (or output) `index` of `signature`, as `model` wants it. `transfers` must outlive the tensor.
  static Result<DeviceTensor> create(const Environment& environment, const CompiledModel& model,
                                     const Signature& signature, std::size_t index, bool output, Transfers* transfers);
  RtTensorBuffer buffer() const { return buffer_.get(); }
  std::size_t bytes() const { return bytes_; }

  // All bytes of the tensor, up and down. Down waits for the runs that write it.
  Status write(const void* from) const;
  Status read(void* to) const;
  Status clear() const;

 private:
  // Locks, calls `copy(memory)`, unlocks.
  template <class Copy>
  Status locked(int mode, const Copy& copy) const;

  std::string name_;
  std::size_t bytes_ = 0;
  Transfers* transfers_ = nullptr;
  TensorBuffer buffer_;
};

}  // namespace tandem::litert
