#include "engine/gpu_memory.h"

#include "base/memory.h"

namespace tandem {
namespace {

constexpr uint64_t kFloat = sizeof(float);
constexpr uint64_t kCacheSides = 2;  // a run reads one and writes the other (model/gpu_target.h)
constexpr uint64_t kGraphs = 2;      // one with logits, one for prompts
constexpr uint64_t kVerifyRows = 4, kPrefillRows = 64;

}  // namespace

MemoryPlan plan_gpu_memory(const Bundle& bundle, const GpuMemoryInputs& inputs) {
  const Manifest& manifest = bundle.manifest();
  const auto bytes = [&](const char* name) {
    const SectionInfo* section = bundle.find(name);
    return section == nullptr ? 0 : section->bytes;
  };
  MemoryPlan plan;
  plan.context = manifest.context;
  const auto context = static_cast<uint64_t>(manifest.context);
  plan.weights = bytes("tf_lite_prefill_decode") * (inputs.shares_weights ? 1 : kGraphs);
  if (inputs.drafter) plan.drafter = bytes("tf_lite_mtp_drafter");
  for (const LayerSpec& layer : manifest.model.layers) {
    plan.cache += kCacheSides * 2 * kFloat * context * static_cast<uint64_t>(layer.kv_heads * layer.head_dim);
  }
  const uint64_t rows = inputs.drafter ? kVerifyRows : 1;
  plan.activations = kFloat * rows * static_cast<uint64_t>(manifest.model.vocab_size) + kFloat * kPrefillRows * context;
  return plan;
}

Status check_gpu_memory(const Bundle& bundle, const MemoryPlan& plan, const std::string& device,
                        uint64_t device_bytes) {
  if (device_bytes == 0 || plan.total() <= device_bytes) return {};
  return {Code::kOutOfMemory, "'" + bundle.path() + "' needs at least " + gibibytes(plan.total()) + " on the GPU (" +
                                  gibibytes(plan.weights + plan.drafter) + " for weights, " + gibibytes(plan.cache) +
                                  " for a session with its context of " + std::to_string(plan.context) + ") but " +
                                  device + " has " + gibibytes(device_bytes) +
                                  "; convert with a smaller --context or quantisation, or use backend='cpu'"};
}

}  // namespace tandem
