#include "model/drafter.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/rope_norm.h"
#include "litert/locked_tensors.h"

namespace tandem {
namespace {

constexpr const char* kSignature = "tandem_draft";
constexpr const char* kAttend = "tandem.attend";
constexpr int64_t kParallelMacs = 1 << 20;  // below, waking another thread costs more than it gives

int32_t argmax(const float* values, int64_t count) {
  return static_cast<int32_t>(std::max_element(values, values + count) - values);
}

}  // namespace

Result<std::unique_ptr<Drafter>> Drafter::create(const litert::Environment& environment, const litert::Model& model,
                                                 const DrafterSpec& spec, FastTarget& target,
                                                 const litert::CpuOptions& options) {
  std::unique_ptr<Drafter> drafter(new Drafter);
  drafter->library_ = environment.library();
  drafter->target_ = &target;
  drafter->spec_ = spec;
  TANDEM_ASSIGN_OR_RETURN(drafter->isa_, select_isa());
  int64_t largest_query = 0;
  for (const LayerSpec& layer : spec.model.layers) {
    RopeTable table;
    for (int i = 0; i < layer.rope.rotated; ++i) {
      const float exponent = static_cast<float>(2 * i) / static_cast<float>(layer.head_dim);
      const float frequency = 1.0f / std::pow(static_cast<float>(layer.rope.theta), exponent);
      table.inverse_frequency.push_back(frequency / static_cast<float>(layer.rope.factor));
    }
    table.cosine.resize(table.inverse_frequency.size());
    table.sine.resize(table.inverse_frequency.size());
    drafter->ropes_.push_back(std::move(table));
    largest_query = std::max<int64_t>(largest_query, int64_t{spec.model.num_heads} * layer.head_dim);
  }
  drafter->queries_.resize(static_cast<std::size_t>(largest_query));

  const auto found = std::find_if(model.signatures().begin(), model.signatures().end(),
                                  [](const litert::Signature& one) { return one.key == kSignature; });
  const auto holds = [](const litert::TensorInfo& info, int64_t values) { return info.elements() == values; };
  if (found == model.signatures().end() || found->inputs.size() != 1 || found->outputs.size() != 2 ||
      !holds(found->inputs[0], int64_t{2} * spec.backbone_size) || !holds(found->outputs[0], spec.model.vocab_size) ||
      !holds(found->outputs[1], spec.backbone_size)) {
    return Status(Code::kBundle, "the bundle's drafter has no graph that fits its manifest; convert the model again");
  }
  drafter->signature_ = &*found;
  TANDEM_ASSIGN_OR_RETURN(drafter->activations_, litert::HostTensor::create(environment.library(), found->inputs[0]));
  TANDEM_ASSIGN_OR_RETURN(drafter->logits_, litert::HostTensor::create(environment.library(), found->outputs[0]));
  TANDEM_ASSIGN_OR_RETURN(drafter->projected_, litert::HostTensor::create(environment.library(), found->outputs[1]));

  litert::CpuOptions selected = options;
  selected.signature_keys = {kSignature};
  litert::CustomOp attend;
  attend.name = kAttend;
  attend.user = drafter.get();
  attend.kernel.init = [](void*, const void*, std::size_t) { return litert::kRtOk; };
  attend.kernel.output_layouts = &Drafter::attend_layouts;
  attend.kernel.run = &Drafter::attend_run;
  attend.kernel.destroy = [](void*) { return litert::kRtOk; };
  selected.custom_ops.push_back(attend);
  TANDEM_ASSIGN_OR_RETURN(drafter->compiled_, litert::CompiledModel::create(environment, model, selected));
  return drafter;
}

Status Drafter::draft(TargetCache& cache, int64_t position, int32_t token, int count,
                      std::span<const int32_t> suppressed, std::vector<int32_t>& out) {
  out.clear();
  const std::span<const float> hidden = FastTarget::hidden(cache, position - 1);
  if (hidden.size() != static_cast<std::size_t>(spec_.backbone_size)) {
    return {Code::kBackend, "the drafter has no hidden state to go on from"};
  }
  auto* embedding = activations_.data<float>();
  auto* state = embedding + spec_.backbone_size;
  std::memcpy(state, hidden.data(), hidden.size() * sizeof(float));
  // Keys end before `position`; it stays the queries' position for the whole round.
  cache_ = &FastTarget::kv(cache);
  position_ = position;
  for (RopeTable& rope : ropes_) {
    rope_table(rope.inverse_frequency.data(), static_cast<int>(rope.inverse_frequency.size()), position, 1,
               rope.cosine.data(), rope.sine.data());
  }
  Status status;
  for (int i = 0; i < count && status.ok(); ++i) {
    status = target_->embed(token, embedding);
    if (!status.ok()) break;
    std::vector<litert::RtTensorBuffer> inputs{activations_.buffer()};
    std::vector<litert::RtTensorBuffer> outputs{logits_.buffer(), projected_.buffer()};
    step_status_ = {};
    status = compiled_.run(*signature_, inputs, outputs);
    if (!step_status_.ok()) status = step_status_;
    if (!status.ok()) break;
    for (const int32_t id : suppressed) logits_.data<float>()[id] = -std::numeric_limits<float>::infinity();
    token = argmax(logits_.data<float>(), spec_.model.vocab_size);
    std::memcpy(state, projected_.data<float>(), hidden.size() * sizeof(float));
    out.push_back(token);
  }
  cache_ = nullptr;
  return status;
}

litert::RtStatus Drafter::attend_layouts(void*, std::size_t, const litert::RtLayout* inputs, std::size_t,
                                         litert::RtLayout* outputs) {
  outputs[0] = inputs[0];
  return litert::kRtOk;
}

litert::RtStatus Drafter::attend_run(void* user, std::size_t num_inputs, const litert::RtTensorBuffer* inputs,
                                     std::size_t num_outputs, litert::RtTensorBuffer* outputs) {
  auto& drafter = *static_cast<Drafter*>(user);
  constexpr litert::RtStatus kFailure = 3;
  if (num_inputs != 3 || num_outputs != 1 || drafter.cache_ == nullptr) return kFailure;
  litert::LockedTensors in(*drafter.library_, litert::kLockRead);
  litert::LockedTensors out(*drafter.library_, litert::kLockWrite);
  const auto* q = in.get<const float>(inputs[0]);
  const auto* q_norm = in.get<const float>(inputs[1]);
  const auto* layer = in.get<const int32_t>(inputs[2]);
  auto* result = out.get<float>(outputs[0]);
  if (!q || !q_norm || !layer || !result) return kFailure;
  if (*layer < 0 || *layer >= static_cast<int32_t>(drafter.spec_.reads.size())) return kFailure;
  drafter.step_status_ = drafter.attend_layer(q, q_norm, *layer, result);
  return drafter.step_status_.ok() ? litert::kRtOk : kFailure;
}

Status Drafter::attend_layer(const float* q, const float* q_norm, int layer, float* out) {
  const auto index = static_cast<std::size_t>(layer);
  const LayerSpec& shape = spec_.model.layers[index];
  const RopeTable& rope = ropes_[index];
  HeadTransform head;
  head.normalise = true;
  head.epsilon = static_cast<float>(spec_.model.rms_norm_eps);
  head.weight = q_norm;
  head.cosine = rope.cosine.data();
  head.sine = rope.sine.data();
  head.pairs = static_cast<int>(rope.inverse_frequency.size());
  transform_heads(q, 1, spec_.model.num_heads, shape.head_dim, head, queries_.data(), isa_);

  AttentionCall call;
  call.shape = {spec_.model.num_heads, shape.kv_heads, shape.head_dim, 1.0f, 0.0f};  // the scale is part of q_norm
  call.tokens = 1;
  call.first_position = position_ - 1;  // the newest key there is; a window counts back from it
  call.window = shape.window;
  call.q = queries_.data();
  call.k = cache_->k(spec_.reads[index]);
  call.v = cache_->v(spec_.reads[index]);
  call.out = out;
  TANDEM_ASSIGN_OR_RETURN(const AttentionPlan plan, plan_attention(call, isa_));
  const int64_t keys = shape.window > 0 ? std::min<int64_t>(position_, shape.window) : position_;
  ThreadPool& pool = target_->pool();
  const int threads = keys * shape.head_dim * spec_.model.num_heads < kParallelMacs ? 1 : pool.threads();
  const std::size_t needed = plan.workspace_bytes(threads);
  if (needed > workspace_bytes_) {
    TANDEM_ASSIGN_OR_RETURN(workspace_, reserve(needed, "the drafter's attention"));
    workspace_bytes_ = needed;
  }
  pool.run(threads, [&](int64_t i) { attend(call, plan, workspace_.get(), static_cast<int>(i), threads); });
  if (plan.splits > 1) {
    pool.run(threads, [&](int64_t i) { attend_merge(call, plan, workspace_.get(), static_cast<int>(i), threads); });
  }
  return {};
}

}  // namespace tandem
