#include "litert/handles.h"

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <span>

#include "base/huge_pages.h"
#include "litert/options.h"

namespace tandem::litert {
namespace {

// XNNPACK reads up to XNN_EXTRA_BYTES past the end of a tensor.
constexpr std::size_t kExtraBytes = 128;

std::string take_messages(const Library& api, RtCompiledModel model) {
  char* text = nullptr;
  if (api.CompiledModelGetErrorMessages(model, &text) != kRtOk || text == nullptr) return {};
  std::string messages(text);
  std::free(text);
  static_cast<void>(api.CompiledModelClearErrors(model));
  while (!messages.empty() && messages.back() == '\n') messages.pop_back();
  return messages;
}

Result<TensorInfo> tensor_info(const Library& api, const char* name, RtTensor tensor) {
  TensorInfo info;
  info.name = name;
  TANDEM_RETURN_IF_ERROR(to_status(api.GetRankedTensorType(tensor, &info.type), "tensor '" + info.name + "'"));
  return info;
}

}  // namespace

Result<Environment> create_environment(std::shared_ptr<const Library> library) {
  const auto integer = [](int32_t tag, int64_t value) {
    RtEnvOption option{};
    option.tag = tag;
    option.value.type = kAnyInt;
    option.value.as_int = value;
    return option;
  };
  const RtEnvOption options[] = {integer(kOptionAutoRegisterAccelerators, kAcceleratorCpu),
                                 integer(kOptionMinLoggerSeverity, kLogSilent)};
  RtEnvironment raw = nullptr;
  TANDEM_RETURN_IF_ERROR(to_status(library->CreateEnvironment(2, options, &raw), "cannot create a LiteRT environment"));
  return Environment(std::move(library), raw);
}

std::vector<int64_t> TensorInfo::shape() const {
  return {type.layout.dimensions, type.layout.dimensions + type.layout.rank};
}

int64_t TensorInfo::elements() const {
  int64_t count = 1;
  for (const int64_t dimension : shape()) count *= dimension;
  return count;
}

std::size_t TensorInfo::bytes() const {
  return static_cast<std::size_t>(elements()) * (type.element_type == kBool ? 1 : 4);
}

Result<Model> Model::from_fd(const Environment& environment, int fd, std::size_t offset, std::size_t bytes) {
  const Library& api = *environment.library();
  RtModel raw = nullptr;
  TANDEM_RETURN_IF_ERROR(
      to_status(api.CreateModelFromFd(environment.get(), fd, offset, bytes, &raw), "LiteRT cannot read the model"));
  Model model;
  model.handle_ = ModelHandle(environment.library(), raw);
  ParamIndex count = 0;
  TANDEM_RETURN_IF_ERROR(to_status(api.GetNumModelSignatures(raw, &count), "signatures"));
  for (ParamIndex i = 0; i < count; ++i) {
    RtSignature handle = nullptr;
    const char* key = nullptr;
    Signature signature;
    signature.index = i;
    TANDEM_RETURN_IF_ERROR(to_status(api.GetModelSignature(raw, i, &handle), "signature"));
    TANDEM_RETURN_IF_ERROR(to_status(api.GetSignatureKey(handle, &key), "signature key"));
    signature.key = key;
    ParamIndex inputs = 0, outputs = 0;
    TANDEM_RETURN_IF_ERROR(to_status(api.GetNumSignatureInputs(handle, &inputs), "signature inputs"));
    TANDEM_RETURN_IF_ERROR(to_status(api.GetNumSignatureOutputs(handle, &outputs), "signature outputs"));
    for (ParamIndex j = 0; j < inputs; ++j) {
      const char* name = nullptr;
      RtTensor tensor = nullptr;
      TANDEM_RETURN_IF_ERROR(to_status(api.GetSignatureInputName(handle, j, &name), "input name"));
      TANDEM_RETURN_IF_ERROR(to_status(api.GetSignatureInputTensorByIndex(handle, j, &tensor), "input tensor"));
      TANDEM_ASSIGN_OR_RETURN(auto info, tensor_info(api, name, tensor));
      signature.inputs.push_back(std::move(info));
    }
    for (ParamIndex j = 0; j < outputs; ++j) {
      const char* name = nullptr;
      RtTensor tensor = nullptr;
      TANDEM_RETURN_IF_ERROR(to_status(api.GetSignatureOutputName(handle, j, &name), "output name"));
      TANDEM_RETURN_IF_ERROR(to_status(api.GetSignatureOutputTensorByIndex(handle, j, &tensor), "output tensor"));
      TANDEM_ASSIGN_OR_RETURN(auto info, tensor_info(api, name, tensor));
      signature.outputs.push_back(std::move(info));
    }
    model.signatures_.push_back(std::move(signature));
  }
  return model;
}

Result<CompiledModel> CompiledModel::create(const Environment& environment, const Model& model,
                                            const CpuOptions& options) {
  const Library& api = *environment.library();
  RtOptions raw = nullptr;
  TANDEM_RETURN_IF_ERROR(to_status(api.CreateOptions(&raw), "options"));
  const Handle<RtOptions, &Library::DestroyOptions> guard(environment.library(), raw);
  TANDEM_RETURN_IF_ERROR(to_status(api.SetOptionsHardwareAccelerators(raw, kAcceleratorCpu), "accelerator"));

  std::string cpu = "num_threads = " + std::to_string(options.num_threads) + "\n";
  if (!options.weight_cache_path.empty()) {
    TANDEM_ASSIGN_OR_RETURN(const std::string path, toml_string(options.weight_cache_path));
    cpu += "weight_cache_file_path = " + path + "\n";
  } else if (options.weight_cache_fd >= 0) {
    // The library closes the descriptor that it is given: it gets one of its own.
    const int own = dup(options.weight_cache_fd);
    if (own < 0)
      return Status(Code::kIo, "no file descriptor is left for packed weights; close files or raise ulimit -n");
    cpu += "weight_cache_file_descriptor = " + std::to_string(own) + "\n";
  }
  TANDEM_RETURN_IF_ERROR(add_toml(api, raw, "xnnpack", cpu));

  TANDEM_RETURN_IF_ERROR(add_runtime_options(api, raw, options.signature_keys));

  for (const CustomOp& op : options.custom_ops) {
    TANDEM_RETURN_IF_ERROR(
        to_status(api.AddCustomOpKernelOption(raw, op.name.c_str(), 1, &op.kernel, op.user), "operator " + op.name));
  }

  RtCompiledModel compiled = nullptr;
  const RtStatus status = api.CreateCompiledModel(environment.get(), model.get(), raw, &compiled);
  if (status != kRtOk) return to_status(status, "LiteRT cannot compile the model for the CPU");
  if (!options.weight_cache_path.empty()) {  // mapped by now, and hardly touched
    const std::span<const std::byte> weights = mapped_file(options.weight_cache_path);
    prefer_huge_pages(weights.data(), weights.size());
  }
  return CompiledModel(CompiledHandle(environment.library(), compiled));
}

Status CompiledModel::run(const Signature& signature, std::vector<RtTensorBuffer>& inputs,
                          std::vector<RtTensorBuffer>& outputs) const {
  const Library& api = *handle_.library();
  const RtStatus status = api.RunCompiledModel(handle_.get(), signature.index, inputs.size(), inputs.data(),
                                               outputs.size(), outputs.data());
  if (status == kRtOk) return {};
  std::string what = "running '" + signature.key + "'";
  if (const std::string messages = take_messages(api, handle_.get()); !messages.empty()) what += " (" + messages + ")";
  return to_status(status, what);
}

Result<HostTensor> HostTensor::create(std::shared_ptr<const Library> library, const TensorInfo& info) {
  HostTensor tensor;
  tensor.bytes_ = info.bytes();
  const std::size_t mapped = tensor.bytes_ + kExtraBytes;
  TANDEM_ASSIGN_OR_RETURN(tensor.memory_, reserve(mapped, "tensor '" + info.name + "'"));
  RtTensorBuffer raw = nullptr;
  TANDEM_RETURN_IF_ERROR(to_status(
      library->CreateTensorBufferFromHostMemory(&info.type, tensor.memory_.get(), tensor.bytes_, nullptr, &raw),
      "buffer of tensor '" + info.name + "'"));
  tensor.buffer_ = TensorBuffer(std::move(library), raw);
  return tensor;
}

}  // namespace tandem::litert
