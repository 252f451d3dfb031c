// Which backend an engine runs on: the GPU's part of Engine, the choice, and the way back to the CPU.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/memory.h"
#include "base/sha256.h"
#include "bundle/gpu_check.h"
#include "engine/engine.h"
#include "engine/gpu_self_test.h"
#include "litert/vulkan.h"
#include "model/gpu_drafter.h"
#include "model/gpu_target.h"

namespace tandem {
namespace {

constexpr const char* kModelSection = "tf_lite_prefill_decode";
constexpr const char* kDrafterSection = "tf_lite_mtp_drafter";
constexpr std::string_view kNamed = "gpu:";

// Of logit_difference(). The GPU does not quantise activations, as the CPU does with int8 and int4 weights.
constexpr double kFloatTolerance = 1e-2, kQuantisedTolerance = 0.3;

Status check_options(const EngineOptions& options) {
  const std::string& backend = options.backend;
  const bool named = backend.starts_with(kNamed) && backend.size() > kNamed.size();
  if (backend != "cpu" && backend != "gpu" && backend != "auto" && !named) {
    return {Code::kInvalidRequest, "backend is '" + backend + "'; give 'cpu', 'gpu', 'gpu:NAME' or 'auto'"};
  }
  if (options.fallback != "none" && options.fallback != "cpu") {
    return {Code::kInvalidRequest, "fallback is '" + options.fallback + "'; give 'none' or 'cpu'"};
  }
  return {};
}

// The first device whose name contains `name`.
Result<litert::VulkanDevice> find_device(const std::string& name, bool hardware) {
  TANDEM_ASSIGN_OR_RETURN(const auto devices, litert::vulkan_devices());
  std::string names;
  for (const litert::VulkanDevice& device : devices) {
    if (device.name.find(name) != std::string::npos && (device.hardware() || !hardware)) return device;
    names += (names.empty() ? "" : ", ") + device.name + " (" + device.kind + ")";
  }
  const std::string there = names.empty() ? "there is none" : "there are: " + names;
  if (hardware) return Status(Code::kBackend, "no GPU in hardware; " + there);
  return Status(Code::kBackend, "no GPU" + (name.empty() ? "" : " whose name contains '" + name + "'") + "; " + there +
                                    "; use backend='cpu'");
}

// A lower bound of what the device must hold: the weights as they are stored, and both sides of the cache.
Status check_device_memory(const Bundle& bundle, const litert::VulkanDevice& device) {
  uint64_t needed = bundle.find(kModelSection)->bytes;
  for (const LayerSpec& layer : bundle.manifest().model.layers) {
    needed += uint64_t{2} * 2 * sizeof(float) * static_cast<uint64_t>(bundle.manifest().context) *
              static_cast<uint64_t>(layer.kv_heads) * static_cast<uint64_t>(layer.head_dim);
  }
  if (device.memory_bytes == 0 || needed <= device.memory_bytes) return {};
  return {Code::kOutOfMemory, "'" + bundle.path() + "' needs at least " + gibibytes(needed) + " on the GPU but " +
                                  device.name + " has " + gibibytes(device.memory_bytes) +
                                  "; convert with a smaller --context or quantisation, or use backend='cpu'"};
}

// Begins the names of files about this bundle on this GPU.
std::string gpu_name(const std::string& cache_name, const std::string& device) {
  const auto* bytes = reinterpret_cast<const std::byte*>(device.data());
  return cache_name + "-gpu-" + to_hex(sha256({bytes, device.size()})).substr(0, 8);
}

std::string first_line(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

}  // namespace

Status Engine::load(const std::shared_ptr<const litert::Library>& library) {
  TANDEM_RETURN_IF_ERROR(check_options(options_));
  if (options_.backend == "cpu") {
    backend_reason_ = "asked for";
    TANDEM_RETURN_IF_ERROR(load_model(litert::create_environment(library)));
    return load_cpu();
  }
  const Status status = load_gpu(library);
  if (status.ok()) return status;
  // An option that a GPU cannot honour is a reason for "auto", and a mistake where a GPU was asked for.
  const bool may_fall_back =
      options_.backend == "auto" || (options_.fallback == "cpu" && status.code() != Code::kInvalidRequest);
  if (!may_fall_back) return status;
  drafter_.reset();
  target_.reset();
  drafter_model_.reset();
  model_.reset();
  backend_reason_ = "the CPU instead of the GPU: " + status.message();
  TANDEM_RETURN_IF_ERROR(load_model(litert::create_environment(library)));
  return load_cpu();
}

Status Engine::load_gpu(const std::shared_ptr<const litert::Library>& library) {
  const std::string obstacle = gpu_obstacle(bundle_.section(kModelSection));
  if (!obstacle.empty()) {
    return {Code::kBundle, "'" + bundle_.path() + "' cannot run on the GPU: " + obstacle +
                               "; convert the model with --quant int4-channel or int8, or use backend='cpu'"};
  }
  const std::string name = options_.backend.starts_with(kNamed) ? options_.backend.substr(kNamed.size()) : "";
  TANDEM_ASSIGN_OR_RETURN(const litert::VulkanDevice device, find_device(name, options_.backend == "auto"));

  const std::filesystem::path folder = std::filesystem::path(options_.library_path).parent_path();
  TANDEM_RETURN_IF_ERROR(load_model(litert::create_gpu_environment(library, folder.string())));
  TANDEM_RETURN_IF_ERROR(check_device_memory(bundle_, device));
  if (options_.backend == "auto") TANDEM_RETURN_IF_ERROR(self_test(device.name));
  if (target_ == nullptr) TANDEM_RETURN_IF_ERROR(create_gpu_target(device.name));
  gpu_ = true;
  active_ = target_.get();
  draft_ = drafter_.get();
  backend_reason_ =
      options_.backend == "auto" ? device.name + ", which agrees with the CPU" : "asked for: " + device.name;
  return {};
}

Status Engine::create_gpu_target(const std::string& device) {
  const Manifest& manifest = bundle_.manifest();
  if (options_.prefix_cache_bytes > 0 || !options_.prefix_cache_dir.empty()) {
    return {Code::kInvalidRequest, "prefix_cache keeps caches of the CPU only; leave it out, or use backend='cpu'"};
  }
  if (options_.graph == "fast") {
    return {Code::kInvalidRequest, "graph='fast' runs on the CPU only; leave graph at 'auto', or use backend='cpu'"};
  }
  if (options_.max_context < 0 || options_.max_context > manifest.context) {
    return {Code::kInvalidRequest, "max_context is " + std::to_string(options_.max_context) + "; '" + bundle_.path() +
                                       "' allows at most " + std::to_string(manifest.context) +
                                       " on the GPU (tandem convert --context)"};
  }
  const SectionInfo* section = bundle_.find(kDrafterSection);
  const bool has_drafter = section != nullptr && manifest.drafter.has_value();
  if (options_.drafter == "on" && !has_drafter) {
    return {Code::kInvalidRequest, "drafter='on' on the GPU needs a bundle with a drafter (tandem convert --drafter)"};
  }
  const bool drafting = has_drafter && options_.drafter != "off";
  if (drafting) {
    const std::string obstacle = gpu_obstacle(bundle_.section(kDrafterSection));
    if (!obstacle.empty()) {
      return {Code::kBundle, "the drafter of '" + bundle_.path() + "' cannot run on the GPU: " + obstacle +
                                 "; convert it with --drafter-quant int8, or use drafter='off'"};
    }
  }
  max_context_ = options_.max_context > 0 ? options_.max_context : manifest.context;
  kv_dtype_ = "f32";
  fast_ = false;
  drafting_ = drafting ? options_.drafter : "off";

  GpuTarget::Wishes wishes;
  wishes.gpu.cache_dir = options_.cache_dir;
  wishes.gpu.cache_name = gpu_name(cache_name_, device);
  wishes.hidden_size = manifest.model.hidden_size;
  wishes.verify = drafting;
  TANDEM_ASSIGN_OR_RETURN(auto target, GpuTarget::create(environment_, *model_, creation_mutex(), wishes));
  if (drafting) {
    TANDEM_ASSIGN_OR_RETURN(auto model,
                            litert::Model::from_fd(environment_, bundle_.fd(), section->offset, section->bytes));
    drafter_model_ = std::make_unique<litert::Model>(std::move(model));
    TANDEM_ASSIGN_OR_RETURN(drafter_, GpuDrafter::create(*drafter_model_, *manifest.drafter, *target, wishes.gpu));
  }
  target_ = std::move(target);
  memory_plan_ = plan_memory(memory_inputs(bundle_, "portable", KvType::kF32, drafting), max_context_);
  return {};
}

Status Engine::self_test(const std::string& device) {
  const std::filesystem::path verdict =
      std::filesystem::path(options_.cache_dir) / (gpu_name(cache_name_, device) + ".verdict");
  const std::string before = options_.cache_dir.empty() ? "" : first_line(verdict);
  if (before == "agrees") return {};
  if (!before.empty()) return {Code::kBackend, before};
  // The CPU first: what the GPU leaves in the engine is what stays.
  TANDEM_RETURN_IF_ERROR(load_cpu());
  const std::unique_ptr<DraftModel> cpu_drafter = std::move(drafter_);
  const std::unique_ptr<Target> cpu = std::move(target_);
  TANDEM_RETURN_IF_ERROR(create_gpu_target(device));
  const Result<double> difference = logit_difference(*target_, *cpu);
  TANDEM_RETURN_IF_ERROR(difference.status());
  const bool exact = bundle_.manifest().quantization == "f32";
  const double allowed = exact ? kFloatTolerance : kQuantisedTolerance;
  std::string line = "agrees";
  if (!(difference.value() <= allowed)) {
    line = device + " computes other logits than the CPU (off by " + std::to_string(difference.value()) + ", allowed " +
           std::to_string(allowed) + ")";
  }
  if (!options_.cache_dir.empty()) std::ofstream(verdict) << line << "\n";
  return line == "agrees" ? Status() : Status(Code::kBackend, line);
}

std::string Engine::backend_reason() const {
  const std::lock_guard lock(backend_mutex_);
  return backend_reason_;
}

std::string Engine::drafting() const {
  const std::lock_guard lock(backend_mutex_);
  return drafting_;
}

std::string Engine::kv_dtype() const {
  const std::lock_guard lock(backend_mutex_);
  return kv_dtype_;
}

MemoryPlan Engine::memory_plan() const {
  const std::lock_guard lock(backend_mutex_);
  return memory_plan_;
}

const litert::Transfers* Engine::transfers() const {
  const std::lock_guard lock(backend_mutex_);
  return gpu_ ? &static_cast<const GpuTarget&>(*active_).transfers() : nullptr;
}

Status Engine::fall_back(const Target& failed, const Status& why) {
  const std::lock_guard lock(backend_mutex_);
  if (&failed != active_) return {};  // another session was first
  if (!gpu_ || options_.fallback != "cpu") return why;
  const std::lock_guard creating(creation_mutex());
  retired_ = std::move(target_);
  retired_drafter_ = std::move(drafter_);
  retired_drafter_model_ = std::move(drafter_model_);
  TANDEM_RETURN_IF_ERROR(load_cpu());
  backend_reason_ = "the CPU instead of the GPU: " + why.message();
  return {};
}

}  // namespace tandem
