// The MTP drafter: a small model that reads the target's own KV cache and hidden state and guesses the next tokens, one
// after the other. It has no cache: its layers bring queries only. Signature (converter/drafter.py):
//   tandem_draft  activations [1,1,2H] = embedding of a token, then the target's hidden state before it or the
//   drafter's
//                 last projection -> logits [1,1,V], projected_activations [1,1,H]
// with the custom operator `tandem.attend`. Depends on the fast target, whose threads and embeddings it uses.
#pragma once

#include <memory>
#include <vector>

#include "bundle/manifest.h"
#include "litert/handles.h"
#include "model/draft_model.h"
#include "model/fast_target.h"

namespace tandem {

class Drafter : public DraftModel {
 public:
  // `model` and `target` must outlive the drafter.
  static Result<std::unique_ptr<Drafter>> create(const litert::Environment& environment, const litert::Model& model,
                                                 const DrafterSpec& spec, FastTarget& target,
                                                 const litert::CpuOptions& options);

  bool ready(const TargetCache& cache, int64_t position) const override {
    return position > 0 && !FastTarget::hidden(cache, position - 1).empty();
  }
  Status draft(TargetCache& cache, int64_t position, int32_t token, int count, std::span<const int32_t> suppressed,
               std::vector<int32_t>& out) override;

 private:
  Drafter() = default;

  // The custom operator: inputs q [1,Hq*D], q_norm [D], layer int32 [1].
  static litert::RtStatus attend_layouts(void* user, std::size_t num_inputs, const litert::RtLayout* inputs,
                                         std::size_t num_outputs, litert::RtLayout* outputs);
  static litert::RtStatus attend_run(void* user, std::size_t num_inputs, const litert::RtTensorBuffer* inputs,
                                     std::size_t num_outputs, litert::RtTensorBuffer* outputs);
  Status attend_layer(const float* q, const float* q_norm, int layer, float* out);

  struct RopeTable {
    std::vector<float> inverse_frequency, cosine, sine;
  };

  std::shared_ptr<const litert::Library> library_;
  FastTarget* target_ = nullptr;
  DrafterSpec spec_;
  Isa isa_ = Isa::kBaseline;
  std::vector<RopeTable> ropes_;  // per layer
  const litert::Signature* signature_ = nullptr;
  litert::HostTensor activations_, logits_, projected_;
  std::vector<float> queries_;
  Mapping workspace_;
  std::size_t workspace_bytes_ = 0;
  litert::CompiledModel compiled_;

  // The round in progress, for the custom operator.
  SequenceCache* cache_ = nullptr;
  int64_t position_ = 0;
  Status step_status_;
};

}  // namespace tandem
