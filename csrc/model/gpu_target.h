// The target model on the GPU: the bundle's portable signatures on LiteRT's accelerator, `decode` (or `verify`, with a
// drafter) for steps with logits, and for prompts one `embedded_prefill_N` or, where the bundle takes no media,
// `prefill_N`; a larger one comes in when the first image needs it. They are compiled together, so that they share the
// weights on the device where LiteRT can; where it cannot, each has its own, and therefore there are no more.
//
// Keys and values stay on the device, in two sets of buffers: a run reads one and writes the other (in place the
// accelerator computes wrong results when it works on the buffers directly, and else copies twice as much). Ids or
// embeddings, positions and the mask go up; logits, and hidden states for a drafter, come down. Embeddings are looked
// up on the CPU, straight from the bundle, where the graph allows it: on the device the table would take twice its size
// again. Depends on litert.
#pragma once

#include <atomic>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "litert/gpu.h"
#include "model/target.h"

namespace tandem {

class GpuTarget : public Target {
 public:
  struct Wishes {
    litert::GpuOptions gpu;  // without signatures
    int64_t hidden_size = 0;
    bool verify = false;  // several tokens with logits in a step, hidden states kept: for a drafter
  };

  // `environment` knows the GPU. It, `model` and `creation`, which is held while a signature is compiled later, must
  // outlive the target; the caller holds it now. kBundle when a signature or tensor that is needed is missing or of
  // another shape.
  static Result<std::unique_ptr<GpuTarget>> create(const litert::Environment& environment, const litert::Model& model,
                                                   std::mutex& creation, const Wishes& wishes);

  ~GpuTarget() override;

  int64_t context() const override { return context_; }
  int64_t vocab_size() const override { return vocab_size_; }
  int64_t step_rows() const override { return step_.rows; }
  Result<std::unique_ptr<TargetCache>> new_cache() override;
  Status prefill(TargetCache& cache, int64_t start, std::span<const int32_t> ids, std::span<const SoftRows> soft,
                 StepGate& gate, int64_t* done) override;
  // kBackend also when the device's results cannot be: not finite, all equal, or not written at all.
  void score(std::span<ScoreItem* const> items) override;
  // Through this side; a file holds float32 rows of every layer, so only a GPU of the same bundle takes it again.
  Status save(const TargetCache& cache, const std::string& path, const Snapshot& snapshot) const override;
  Result<Snapshot> restore(TargetCache& cache, const std::string& path, const Sha256Digest& bundle) const override;

  const litert::Transfers& transfers() const { return transfers_; }

  // For the drafter, which works on the same cache.
  const litert::Environment& environment() const { return environment_; }
  litert::Transfers* mutable_transfers() { return &transfers_; }
  // The device's buffer of a cache tensor; nullptr when there is none of this name.
  static litert::RtTensorBuffer kv(const TargetCache& cache, const std::string& name);
  // The hidden state after the token at `position`, if the newest score() left it there; else empty.
  static std::span<const float> hidden(const TargetCache& cache, int64_t position);
  // Whoever holds it may embed; no step runs meanwhile.
  std::unique_lock<std::mutex> exclusive() { return std::unique_lock(mutex_); }
  // Scaled embeddings of `ids`, [ids.size(), hidden size].
  Status embed(std::span<const int32_t> ids, float* out);

 private:
  // One compiled signature with its own tensors; those of the cache are bound per call.
  struct Step {
    const litert::Signature* signature = nullptr;
    int64_t rows = 0;
    bool proven = false;  // the device was seen to run it
    std::vector<litert::DeviceTensor> owned;
    std::vector<litert::RtTensorBuffer> inputs, outputs;  // nullptr where a cache tensor goes
    // Places in `owned`; -1: the signature has no such tensor.
    int tokens = -1, embeddings = -1, positions = -1, mask = -1, logits = -1, activations = -1;
  };
  // A lookup of embeddings on the CPU.
  struct Lookup {
    const litert::Signature* signature = nullptr;
    int64_t rows = 0;
    litert::HostTensor tokens, embeddings;
  };
  class AnyCache;
  class Cache;
  class Parked;

  GpuTarget(const litert::Environment& environment, const litert::Model& model, std::mutex& creation, Wishes wishes);

  Status score(ScoreItem& item);
  // Compiles the signatures of `keys_`, which frees what was compiled before first.
  Status compile();
  Result<Step> make_step(const litert::Signature& signature);
  Status make_lookups();
  // The largest step for media that holds `take` rows at `position` inside the context, compiled on first use; nullptr
  // when there is none.
  Result<Step*> embedded_step(int64_t position, int64_t take);
  Result<std::unique_ptr<Cache>> make_cache();
  // Runs every step that is there once: memory that a device lacks is missed here, not in the middle of a text.
  Status warm_up();
  // Runs `ids` (at most step.rows of them, the rest is padding) at `start`, without waiting for the device; but the
  // first time it waits and makes sure that the device has written the cache.
  Status run(Step& step, Cache& cache, int64_t start, std::span<const int32_t> ids, std::span<const SoftRows> soft);
  Status upload(const Step& step, int64_t start, std::span<const int32_t> ids, std::span<const SoftRows> soft);
  // The logits of step_ in logits_, certain to be those of this run.
  Status run_checked(Cache& cache, int64_t start, std::span<const int32_t> ids);
  Status poison_logits();

  const litert::Environment& environment_;
  const litert::Model& model_;
  std::mutex& creation_;
  Wishes wishes_;
  litert::Transfers transfers_;
  std::vector<std::string> keys_;       // of the signatures in compiled_
  litert::CompiledModel compiled_;      // empty after a failure
  Step step_;                           // with logits
  Step prefill_;                        // no signature where the bundle has none that fits
  std::list<Step> embedded_;            // once there is media that prefill_ cannot take
  std::vector<Lookup> lookups_;         // smallest first
  litert::CompiledModel lookup_model_;  // on the CPU
  std::unique_ptr<Cache> spare_;        // of the warm-up, for the first session
  int64_t context_ = 0, vocab_size_ = 0;
  // What goes up and comes down, on this side.
  std::vector<int32_t> tokens_, positions_;
  std::vector<float> embeddings_, mask_, logits_, last_row_;
  mutable std::mutex mutex_;
};

}  // namespace tandem
