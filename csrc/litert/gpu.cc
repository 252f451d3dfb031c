#include "litert/gpu.h"

#include <algorithm>
#include <cstring>

#include "litert/options.h"
#include "litert/program_cache.h"

namespace tandem::litert {
namespace {

constexpr const char* kAcceleratorFile = "libLiteRtWebGpuAccelerator.so";

// Values of the accelerator's options.
constexpr int kWebGpu = 2, kFloat32Precision = 2;

}  // namespace

Result<Environment> create_gpu_environment(std::shared_ptr<const Library> library, const std::string& folder) {
  RtEnvOption options[3] = {};
  options[0].tag = kOptionRuntimeLibraryDir;
  options[0].value.type = kAnyString;
  options[0].value.as_string = folder.c_str();
  options[1].tag = kOptionAutoRegisterAccelerators;
  options[1].value.type = kAnyInt;
  options[1].value.as_int = kAcceleratorCpu | kAcceleratorGpu;
  options[2].tag = kOptionMinLoggerSeverity;
  options[2].value.type = kAnyInt;
  options[2].value.as_int = kLogSilent;
  RtEnvironment raw = nullptr;
  TANDEM_RETURN_IF_ERROR(to_status(library->CreateEnvironment(3, options, &raw), "cannot create a LiteRT environment"));
  Environment environment(library, raw);
  ParamIndex count = 0;
  TANDEM_RETURN_IF_ERROR(to_status(library->GetNumAccelerators(raw, &count), "accelerators"));
  for (ParamIndex i = 0; i < count; ++i) {
    RtAccelerator accelerator = nullptr;
    const char* name = nullptr;
    if (library->GetAccelerator(raw, i, &accelerator) == kRtOk &&
        library->GetAcceleratorName(accelerator, &name) == kRtOk && name != nullptr &&
        std::string(name).starts_with("GPU")) {
      return environment;
    }
  }
  return Status(Code::kBackend, std::string("LiteRT has no GPU accelerator: ") + kAcceleratorFile + " is not in '" +
                                    folder + "' or does not fit; reinstall ai-edge-litert 2.3");
}

Result<CompiledModel> compile_for_gpu(const Environment& environment, const Model& model, const GpuOptions& options) {
  const Library& api = *environment.library();
  RtOptions raw = nullptr;
  TANDEM_RETURN_IF_ERROR(to_status(api.CreateOptions(&raw), "options"));
  const Handle<RtOptions, &Library::DestroyOptions> guard(environment.library(), raw);
  TANDEM_RETURN_IF_ERROR(to_status(api.SetOptionsHardwareAccelerators(raw, kAcceleratorGpu), "accelerator"));

  // Without `enable_constant_tensors_sharing` every signature has its own copy of the weights on the device. With it
  // the accelerator of ai-edge-litert 2.3 reads an object of libLiteRt.so as its own C++ library would lay it out, and
  // the process dies, whatever the model.
  //
  // External tensors are read and written where they lie, without copies in between; such a tensor must not be input
  // and output of one run (the results would be wrong).
  std::string gpu = "backend = " + std::to_string(kWebGpu) + "\nprecision = " + std::to_string(kFloat32Precision) +
                    "\nexternal_tensor_patterns = [\"kv_cache_\"]\n";
  if (options.share_constants) gpu += "enable_constant_tensors_sharing = true\n";
  const ProgramCache cache(options.cache_dir, options.cache_name);
  if (!cache.folder().empty()) {
    TANDEM_ASSIGN_OR_RETURN(const std::string folder, toml_string(cache.folder()));
    TANDEM_ASSIGN_OR_RETURN(const std::string name, toml_string(cache.key()));
    gpu += "serialization_dir = " + folder + "\nmodel_cache_key = " + name + "\nserialize_program_cache = true\n";
  }
  TANDEM_RETURN_IF_ERROR(add_toml(api, raw, "gpu_options", gpu));
  TANDEM_RETURN_IF_ERROR(add_runtime_options(api, raw, options.signature_keys));

  RtCompiledModel compiled = nullptr;
  const RtStatus status = api.CreateCompiledModel(environment.get(), model.get(), raw, &compiled);
  if (status == kRtRuntimeFailure) {
    return to_status(status,
                     "there is no GPU that LiteRT can use: no adapter, or its driver failed (tandem devices lists "
                     "what is there); use backend='cpu'");
  }
  if (status == kRtCompilation) {
    return to_status(status,
                     "the bundle's graphs have operators that the GPU does not take; convert the model again, or "
                     "use backend='cpu'");
  }
  TANDEM_RETURN_IF_ERROR(to_status(status, "LiteRT cannot compile the model for the GPU"));
  CompiledModel result(CompiledHandle(environment.library(), compiled));
  bool all = false;
  TANDEM_RETURN_IF_ERROR(to_status(api.CompiledModelIsNonCpuFullyAccelerated(compiled, &all), "delegation"));
  if (!all) {
    return Status(Code::kBackend,
                  "the GPU does not take all operators of the bundle's graphs; convert the model again, "
                  "or use backend='cpu'");
  }
  cache.commit();
  return result;
}

Result<DeviceTensor> DeviceTensor::create(const Environment& environment, const CompiledModel& model,
                                          const Signature& signature, std::size_t index, bool output,
                                          Transfers* transfers) {
  const Library& api = *environment.library();
  const TensorInfo& info = output ? signature.outputs[index] : signature.inputs[index];
  const std::string what = "device memory for tensor '" + info.name + "'";
  RtTensorBufferRequirements wanted = nullptr;
  const auto requirements =
      output ? api.GetCompiledModelOutputBufferRequirements : api.GetCompiledModelInputBufferRequirements;
  TANDEM_RETURN_IF_ERROR(to_status(requirements(model.get(), signature.index, index, &wanted), what));
  RtTensorBuffer raw = nullptr;
  const RtStatus status = api.CreateManagedTensorBufferFromRequirements(environment.get(), &info.type, wanted, &raw);
  if (status != kRtOk) {
    return Status(Code::kOutOfMemory, "no " + what + " (" + std::to_string(info.bytes()) + " bytes): " +
                                          status_name(status) + "; use a smaller bundle or context, or backend='cpu'");
  }
  DeviceTensor tensor;
  tensor.buffer_ = TensorBuffer(environment.library(), raw);
  tensor.name_ = info.name;
  tensor.bytes_ = info.bytes();
  tensor.transfers_ = transfers;
  std::size_t packed = 0;
  TANDEM_RETURN_IF_ERROR(to_status(api.GetTensorBufferPackedSize(raw, &packed), what));
  if (packed < tensor.bytes_) {  // locking it would hand out less memory than is copied
    return Status(Code::kBackend, what + " is smaller than the tensor; this LiteRT does not fit");
  }
  return tensor;
}

template <class Copy>
Status DeviceTensor::locked(int mode, const Copy& copy) const {
  const Library& api = *buffer_.library();
  void* memory = nullptr;
  const RtStatus status = api.LockTensorBuffer(buffer_.get(), &memory, mode);
  if (status != kRtOk || memory == nullptr) {
    return {Code::kBackend, "the GPU does not give tensor '" + name_ + "' out (" + status_name(status) +
                                "): the device was lost or is out of memory"};
  }
  copy(memory);
  return to_status(api.UnlockTensorBuffer(buffer_.get()), "unlocking tensor '" + name_ + "'");
}

Status DeviceTensor::write(const void* from) const {
  transfers_->uploads += 1;
  transfers_->upload_bytes += bytes_;
  return locked(kLockWrite, [&](void* memory) { std::memcpy(memory, from, bytes_); });
}

Status DeviceTensor::clear() const {
  transfers_->uploads += 1;
  transfers_->upload_bytes += bytes_;
  return locked(kLockWrite, [&](void* memory) { std::memset(memory, 0, bytes_); });
}

Status DeviceTensor::read(void* to) const {
  transfers_->downloads += 1;
  transfers_->download_bytes += bytes_;
  return locked(kLockRead, [&](void* memory) { std::memcpy(to, memory, bytes_); });
}

}  // namespace tandem::litert
