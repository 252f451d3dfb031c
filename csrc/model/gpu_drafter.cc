#include "model/gpu_drafter.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "model/portable_cache.h"
#include "model/portable_mask.h"

namespace tandem {
namespace {

constexpr const char* kSignature = "mtp_drafter";

Status malformed() {
  return {Code::kBundle, "the bundle's drafter has no graph that fits its manifest; convert the model again"};
}

}  // namespace

Result<std::unique_ptr<GpuDrafter>> GpuDrafter::create(const litert::Model& model, const DrafterSpec& spec,
                                                       GpuTarget& target, const litert::GpuOptions& options) {
  std::unique_ptr<GpuDrafter> drafter(new GpuDrafter(target, spec));
  const auto& all = model.signatures();
  const auto found = std::find_if(all.begin(), all.end(), [](const auto& one) { return one.key == kSignature; });
  if (found == all.end()) return malformed();
  drafter->signature_ = &*found;
  litert::GpuOptions own = options;
  own.signature_keys = {kSignature};
  own.cache_name += "-drafter";
  TANDEM_ASSIGN_OR_RETURN(drafter->compiled_, litert::compile_for_gpu(target.environment(), model, own));
  const auto floats = [](int64_t count) { return static_cast<std::size_t>(count) * sizeof(float); };
  const int64_t width = spec.backbone_size;
  TANDEM_ASSIGN_OR_RETURN(drafter->activations_, drafter->tensor("activations", false, floats(2 * width)));
  TANDEM_ASSIGN_OR_RETURN(drafter->position_, drafter->tensor("input_pos", false, sizeof(int32_t)));
  TANDEM_ASSIGN_OR_RETURN(drafter->mask_, drafter->tensor("mask", false, floats(target.context())));
  TANDEM_ASSIGN_OR_RETURN(drafter->logits_, drafter->tensor("logits", true, floats(spec.model.vocab_size)));
  TANDEM_ASSIGN_OR_RETURN(drafter->projected_, drafter->tensor("projected_activations", true, floats(width)));
  drafter->state_.resize(static_cast<std::size_t>(2 * width));
  drafter->mask_values_.resize(static_cast<std::size_t>(target.context()));
  drafter->scores_.resize(static_cast<std::size_t>(spec.model.vocab_size));
  return drafter;
}

Result<litert::DeviceTensor> GpuDrafter::tensor(const std::string& name, bool output, std::size_t bytes) {
  const auto& all = output ? signature_->outputs : signature_->inputs;
  const auto found = std::find_if(all.begin(), all.end(), [&](const auto& info) { return info.name == name; });
  if (found == all.end() || found->bytes() != bytes) return malformed();
  return litert::DeviceTensor::create(target_.environment(), compiled_, *signature_,
                                      static_cast<std::size_t>(found - all.begin()), output,
                                      target_.mutable_transfers());
}

Status GpuDrafter::draft(TargetCache& cache, int64_t position, int32_t token, int count,
                         std::span<const int32_t> suppressed, std::vector<int32_t>& out) {
  out.clear();
  const auto lock = target_.exclusive();
  const std::span<const float> hidden = GpuTarget::hidden(cache, position - 1);
  const auto width = static_cast<std::size_t>(spec_.backbone_size);
  if (hidden.size() != width) return {Code::kBackend, "the drafter has no hidden state to go on from"};
  std::vector<litert::RtTensorBuffer> inputs, outputs;
  for (const litert::TensorInfo& input : signature_->inputs) {
    if (is_kv_name(input.name)) inputs.push_back(GpuTarget::kv(cache, input.name));
    if (input.name == "activations") inputs.push_back(activations_.buffer());
    if (input.name == "input_pos") inputs.push_back(position_.buffer());
    if (input.name == "mask") inputs.push_back(mask_.buffer());
    if (inputs.empty() || inputs.back() == nullptr) return malformed();
  }
  for (const litert::TensorInfo& output : signature_->outputs) {
    outputs.push_back(output.name == "logits" ? logits_.buffer() : projected_.buffer());
  }
  if (inputs.size() != signature_->inputs.size() || outputs.size() != 2) return malformed();

  // The last position that has keys stands for the whole round; the graph puts the queries one further.
  const auto last = static_cast<int32_t>(position - 1);
  TANDEM_RETURN_IF_ERROR(position_.write(&last));
  const auto context = static_cast<int64_t>(mask_values_.size());
  fill_mask(mask_values_.data(), 1, context, last, 1, {}, 0.0f, kMasked);
  TANDEM_RETURN_IF_ERROR(mask_.write(mask_values_.data()));
  std::copy(hidden.begin(), hidden.end(), state_.begin() + static_cast<std::ptrdiff_t>(width));
  for (int i = 0; i < count; ++i) {
    TANDEM_RETURN_IF_ERROR(target_.embed({&token, 1}, state_.data()));
    TANDEM_RETURN_IF_ERROR(activations_.write(state_.data()));
    target_.mutable_transfers()->runs += 1;
    TANDEM_RETURN_IF_ERROR(compiled_.run(*signature_, inputs, outputs));
    TANDEM_RETURN_IF_ERROR(logits_.read(scores_.data()));
    TANDEM_RETURN_IF_ERROR(projected_.read(state_.data() + width));
    // Drafts are checked by the target, so that a wrong one only costs time; but NaN would compare with nothing.
    for (const int32_t id : suppressed) scores_[static_cast<std::size_t>(id)] = -std::numeric_limits<float>::infinity();
    const auto best = std::max_element(scores_.begin(), scores_.end());
    if (std::isnan(*best) || std::isnan(scores_[0])) {
      return {Code::kBackend,
              "the GPU's results cannot be right: the drafter's logits are no numbers; use drafter='off'"};
    }
    token = static_cast<int32_t>(best - scores_.begin());
    out.push_back(token);
  }
  return {};
}

}  // namespace tandem
