// The MTP drafter on the GPU: the portable signature `mtp_drafter` (converter/drafter.py), bound to the target's own
// keys and values on the device. Up go an embedding with a hidden state, and the position and mask once a round; logits
// and the projection come down. Depends on the GPU target.
#pragma once

#include <memory>
#include <vector>

#include "bundle/manifest.h"
#include "model/draft_model.h"
#include "model/gpu_target.h"

namespace tandem {

class GpuDrafter : public DraftModel {
 public:
  // `model` and `target` must outlive the drafter.
  static Result<std::unique_ptr<GpuDrafter>> create(const litert::Model& model, const DrafterSpec& spec,
                                                    GpuTarget& target, const litert::GpuOptions& options);

  bool ready(const TargetCache& cache, int64_t position) const override {
    return position > 0 && !GpuTarget::hidden(cache, position - 1).empty();
  }
  Status draft(TargetCache& cache, int64_t position, int32_t token, int count, std::span<const int32_t> suppressed,
               std::vector<int32_t>& out) override;

 private:
  GpuDrafter(GpuTarget& target, const DrafterSpec& spec) : target_(target), spec_(spec) {}
  Result<litert::DeviceTensor> tensor(const std::string& name, bool output, std::size_t bytes);

  GpuTarget& target_;
  DrafterSpec spec_;
  const litert::Signature* signature_ = nullptr;
  litert::CompiledModel compiled_;
  litert::DeviceTensor activations_, position_, mask_, logits_, projected_;
  std::vector<float> state_, mask_values_, scores_;
};

}  // namespace tandem
