// The target model over the bundle's portable signatures: `prefill_N` writes KV for N tokens, `score_N` also returns
// their logits, `decode` is one token with logits. Prompts with images or sound go through `embedded_prefill_N`, which
// takes embeddings. Knows tensor names, chunk sizes and masks, nothing of sampling.
// Depends on litert.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "litert/handles.h"
#include "model/portable_cache.h"
#include "model/target.h"

namespace tandem {

class PortableTarget : public Target {
 public:
  // `model` must outlive the target. kBundle when a signature or tensor that is needed is missing or of another shape.
  static Result<std::unique_ptr<PortableTarget>> create(const litert::Environment& environment,
                                                        const litert::Model& model, int64_t hidden_size,
                                                        const litert::CpuOptions& options);

  int64_t context() const override { return context_; }
  int64_t vocab_size() const override { return vocab_size_; }
  Result<std::unique_ptr<TargetCache>> new_cache() override;
  Status prefill(TargetCache& cache, int64_t start, std::span<const int32_t> ids, std::span<const SoftRows> soft,
                 StepGate& gate, int64_t* done) override;
  void score(std::span<ScoreItem* const> items) override;
  // Both refuse: such caches have no file format.
  Status save(const TargetCache& cache, const std::string& path, const Snapshot& snapshot) const override;
  Result<Snapshot> restore(TargetCache& cache, const std::string& path, const Sha256Digest& bundle) const override;

 private:
  // One signature with its own input and output buffers; KV buffers are bound per call.
  struct Step {
    const litert::Signature* signature = nullptr;
    int64_t rows = 0;
    int64_t width = 0;  // of an embedding
    std::vector<litert::HostTensor> owned;
    std::vector<litert::RtTensorBuffer> inputs;   // nullptr where a KV buffer goes
    std::vector<litert::RtTensorBuffer> outputs;  // nullptr where a KV buffer goes
    int32_t* tokens = nullptr;                    // nullptr where embeddings go in
    float* embeddings = nullptr;  // [rows, hidden size]: of embedded_prefill_N the input, of tandem_embed_N the output
    int32_t* positions = nullptr;
    void* mask = nullptr;
    bool mask_is_bool = false;
    const float* logits = nullptr;  // [rows, vocab], nullptr when the signature has none
  };

  static Result<Step> make_step(const std::shared_ptr<const litert::Library>& library,
                                const litert::Signature& signature);
  // Runs `ids` (at most step.rows of them, the rest is padding) at `start`.
  Status run(Step& step, PortableCache& cache, int64_t start, std::span<const int32_t> ids,
             std::span<const SoftRows> soft);
  // Fills the embeddings of a step that takes them.
  Status embed(Step& step, int64_t start, std::span<const int32_t> ids, std::span<const SoftRows> soft);
  void mask_step(Step& step, int64_t start, int64_t count, std::span<const SoftRows> soft) const;
  // The smallest embedding step for `take` rows at `start` that does not reach past the context; nullptr if there is
  // none.
  Step* embedding_step(int64_t start, int64_t take);
  // The step for the next chunk of `left` tokens at `start`: the largest that is filled at least by half and does not
  // reach past the context; one row when none does.
  Step& choose(std::vector<Step>& steps, int64_t start, int64_t left);

  std::shared_ptr<const litert::Library> library_;
  litert::CompiledModel compiled_;
  std::vector<Step> prefill_;            // largest first
  std::vector<Step> score_;              // largest first
  std::vector<Step> embedded_, lookup_;  // embedded_prefill_N, tandem_embed_N: largest first; empty without media
  Step decode_;
  int64_t context_ = 0;
  int64_t vocab_size_ = 0;
};

}  // namespace tandem
