// Which backend an engine runs on: the GPU's part of Engine, the choice, and the way back to the CPU.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/memory.h"
#include "base/sha256.h"
#include "bundle/gpu_check.h"
#include "engine/engine.h"
#include "engine/gpu_memory.h"
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

Status Engine::load() {
  TANDEM_RETURN_IF_ERROR(check_options(options_));
  if (options_.backend == "cpu") {
    backend_reason_ = "asked for";
    TANDEM_RETURN_IF_ERROR(load_cpu_model());
    return load_cpu();
  }
  const Status status = load_gpu();
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
  TANDEM_RETURN_IF_ERROR(load_cpu_model());
  return load_cpu();
}

Result<bool> Engine::shares_constants(const litert::Library& library, const char* section) const {
  const std::span<const std::byte> model = bundle_.section(section);
  const bool shares = library.has_gpu() && gpu_can_share(model);
  const std::string obstacle = gpu_obstacle(model, shares ? GpuConstants::kShared : GpuConstants::kCopied);
  if (obstacle.empty()) return shares;
  const bool drafter = std::string_view(section) == kDrafterSection;
  return Status(Code::kBundle, (drafter ? "the drafter of '" : "'") + bundle_.path() +
                                   "' cannot run on the GPU: " + obstacle + "; " +
                                   (drafter ? "convert it with --drafter-quant int8, or use drafter='off'"
                                            : "convert the model with --quant int4-channel or int8, or use "
                                              "backend='cpu'"));
}

Status Engine::load_gpu() {
  const std::filesystem::path path =
      options_.gpu_library_path.empty() ? options_.library_path : options_.gpu_library_path;
  TANDEM_ASSIGN_OR_RETURN(const auto library, litert::Library::open(path.string()));
  TANDEM_RETURN_IF_ERROR(shares_constants(*library, kModelSection).status());
  const std::string name = options_.backend.starts_with(kNamed) ? options_.backend.substr(kNamed.size()) : "";
  TANDEM_ASSIGN_OR_RETURN(const litert::VulkanDevice device, find_device(name, options_.backend == "auto"));

  TANDEM_RETURN_IF_ERROR(load_model(*library, litert::create_gpu_environment(library, path.parent_path().string())));
  device_memory_ = device.memory_bytes;
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
  max_context_ = options_.max_context > 0 ? options_.max_context : manifest.context;
  kv_dtype_ = "f32";
  fast_ = false;
  drafting_ = drafting ? options_.drafter : "off";

  GpuTarget::Wishes wishes;
  wishes.gpu.cache_dir = options_.cache_dir;
  wishes.gpu.cache_name = gpu_name(cache_name_, device);
  wishes.hidden_size = manifest.model.hidden_size;
  wishes.verify = drafting;
  const litert::Library& library = *environment_.library();
  TANDEM_ASSIGN_OR_RETURN(wishes.gpu.share_constants, shares_constants(library, kModelSection));
  memory_plan_ = plan_gpu_memory(bundle_, {wishes.gpu.share_constants, drafting});
  TANDEM_RETURN_IF_ERROR(check_gpu_memory(bundle_, memory_plan_, device, device_memory_));
  litert::GpuOptions drafter_gpu = wishes.gpu;
  if (drafting) {
    TANDEM_ASSIGN_OR_RETURN(drafter_gpu.share_constants, shares_constants(library, kDrafterSection));
  }
  TANDEM_ASSIGN_OR_RETURN(auto target, GpuTarget::create(environment_, *model_, creation_mutex(), wishes));
  if (drafting) {
    TANDEM_ASSIGN_OR_RETURN(auto model,
                            litert::Model::from_fd(environment_, bundle_.fd(), section->offset, section->bytes));
    drafter_model_ = std::make_unique<litert::Model>(std::move(model));
    TANDEM_ASSIGN_OR_RETURN(drafter_, GpuDrafter::create(*drafter_model_, *manifest.drafter, *target, drafter_gpu));
  }
  target_ = std::move(target);
  gpu_shares_weights_ = wishes.gpu.share_constants;
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
  kept_ = nullptr;  // caches of the GPU's; the CPU begins without any
  retired_ = std::move(target_);
  retired_drafter_ = std::move(drafter_);
  retired_drafter_model_ = std::move(drafter_model_);
  TANDEM_RETURN_IF_ERROR(load_cpu());
  backend_reason_ = "the CPU instead of the GPU: " + why.message();
  return {};
}

}  // namespace tandem
