// The target model over the bundle's fast signatures (converter/fast_graph.py): `tandem_embed_T` looks embeddings up,
// `tandem_body_T` runs the layers for T tokens with the custom operator `tandem.attention` over the session's own
// cache, `tandem_fill_T` does so for the cache's sake only (`tandem_block_T` likewise, for images that are too large
// for any of those), `tandem_head_T` turns hidden states into logits. A prompt is cut to compute as little padding as
// possible, and the head runs only for rows whose logits are wanted. Depends on litert, kernels, kv.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "bundle/manifest.h"
#include "kernels/attention.h"
#include "kv/sequence_cache.h"
#include "litert/handles.h"
#include "model/native_step.h"
#include "model/target.h"

namespace tandem {

class FastTarget : public Target {
 public:
  // True when the model has the signatures that this class needs.
  static bool supports(const litert::Model& model);

  // For layers without a graph. The table points into the bundle.
  struct Weights {
    WeightTable table;
    PackedWeights packed;
  };

  // `weights` empty: graphs run the layers. `model` and the bundle must outlive the target.
  static Result<std::unique_ptr<FastTarget>> create(const litert::Environment& environment, const litert::Model& model,
                                                    const ModelSpec& spec, std::optional<Weights> weights,
                                                    int64_t max_context, KvType kv_type,
                                                    const litert::CpuOptions& options);
  ~FastTarget() override;

  int64_t context() const override { return max_context_; }
  int64_t vocab_size() const override { return spec_.vocab_size; }
  int64_t step_rows() const override {
    return native_ ? NativeStep::kStepRows : std::min(body_.back().rows, head_.back().rows);
  }
  // Whether the layers run without a graph.
  bool native() const { return native_ != nullptr; }
  Result<std::unique_ptr<TargetCache>> new_cache() override;
  Status prefill(TargetCache& cache, int64_t start, std::span<const int32_t> ids, std::span<const SoftRows> soft,
                 StepGate& gate, int64_t* done) override;
  void score(std::span<ScoreItem* const> items) override;
  // The hidden state that a drafter needs is not saved: it drafts again after the first step.
  Status save(const TargetCache& cache, const std::string& path, const Snapshot& snapshot) const override;
  Result<Snapshot> restore(TargetCache& cache, const std::string& path, const Sha256Digest& bundle) const override;

  // For the drafter, which works on the same cache, threads and embeddings.
  static SequenceCache& kv(TargetCache& cache);
  // The hidden state after the token at `position`, if the newest score() left it there; else empty.
  static std::span<const float> hidden(const TargetCache& cache, int64_t position);
  // No step may run meanwhile, as for the drafter as a whole.
  Status embed(int32_t id, float* out);
  ThreadPool& pool() { return *pool_; }

 private:
  class FastCache;
  // Cosines and sines of the current step for one kind of rope.
  struct RopeTable {
    std::vector<float> inverse_frequency;
    std::vector<float> cosine, sine;  // [rows][pairs]
    int pairs = 0;
  };
  // A signature with one input and one output, bound to the shared buffers.
  struct Stage {
    const litert::Signature* signature = nullptr;
    int64_t rows = 0;
    litert::TensorBuffer input, output;
  };

  // Rows of the step in progress that belong to one sequence.
  struct Part {
    SequenceCache* cache = nullptr;
    int64_t start = 0;  // position of its first row
    int64_t first = 0;  // row of the step
    int64_t rows = 0;
  };

  FastTarget() = default;

  // Finds the stages and compiles them. `native`: layers and head run without a graph, and nothing but the lookup of
  // embeddings is compiled: the backend looks at every scale of every graph, which takes seconds.
  Status compile(const litert::Environment& environment, const litert::Model& model, bool native,
                 const litert::CpuOptions& options);
  Status bind(std::vector<Stage>& stages, const Mapping& input, const Mapping& output);
  // The smallest stage with at least `rows` rows; the largest when there is none.
  static const Stage& covering(const std::vector<Stage>& stages, int64_t rows);
  // The stage to begin `left` tokens with, by the cheapest way to cut them.
  static const Stage& first_piece(const std::vector<Stage>& stages, int64_t left);
  Status run(const Stage& stage);
  // Embeds and runs `ids`, at most as many as `stage` has rows, at `start`.
  Status run_layers(const Stage& stage, SequenceCache& cache, int64_t start, std::span<const int32_t> ids,
                    std::span<const SoftRows> soft);
  // The same without a graph; when filling_, for the cache only.
  Status run_native(SequenceCache& cache, int64_t start, std::span<const int32_t> ids, std::span<const SoftRows> soft,
                    const std::atomic<bool>& cancelled);
  // Appends the first piece of `ids` to the cache and adds its length to `*done`.
  Status fill_native(FastCache& cache, int64_t start, std::span<const int32_t> ids, std::span<const SoftRows> soft,
                     const std::atomic<bool>& cancelled, int64_t* done);
  Status fill_graph(FastCache& cache, int64_t start, std::span<const int32_t> ids, std::span<const SoftRows> soft,
                    int64_t* done);
  // Rings have no room for large images before the first one comes.
  Status make_room(FastCache& cache, int64_t start, int64_t rows) const;
  // What comes before both: embeddings, and where attention is.
  Status begin(SequenceCache& cache, int64_t start, std::span<const int32_t> ids, std::span<const SoftRows> soft,
               int64_t stage_rows);
  // The layers of a native step whose embeddings and parts are set.
  Status run_native_layers(const std::atomic<bool>& cancelled);
  // Embeds `ids` and runs the layers for them, as parts_ says.
  Status run_parts(std::span<const int32_t> ids);
  // Logits of the first `rows` hidden states, float32 [rows, vocab_size]; nullptr: into logits_.
  Status run_head(int64_t rows, float* logits);
  // Fills the beginning of `embeddings_`, zeros up to `rows`.
  Status embed_rows(int64_t start, std::span<const int32_t> ids, std::span<const SoftRows> soft, int64_t rows);
  void set_block_ends(int64_t start, int64_t count, std::span<const SoftRows> soft);
  // The stage for exactly `take` rows without logits; nullptr when there is none that large.
  const Stage* filling_stage(int64_t take) const;
  int64_t max_rows() const;  // of a step without large images
  void prepare_ropes();      // of parts_

  // The custom operator: inputs q [T,Hq*D], k [T,Hkv*D], v [T,Hkv*D], q_norm [D], k_norm [D], layer int32 [1].
  static litert::RtStatus attention_layouts(void* user, std::size_t num_inputs, const litert::RtLayout* inputs,
                                            std::size_t num_outputs, litert::RtLayout* outputs);
  static litert::RtStatus attention_run(void* user, std::size_t num_inputs, const litert::RtTensorBuffer* inputs,
                                        std::size_t num_outputs, litert::RtTensorBuffer* outputs);
  Status attention(const float* q, const float* k, const float* v, const float* q_norm, const float* k_norm, int layer,
                   float* out);

  std::shared_ptr<const litert::Library> library_;
  ModelSpec spec_;
  int64_t max_context_ = 0;
  KvType kv_type_ = KvType::kF16;
  Isa isa_ = Isa::kBaseline;
  std::vector<CacheLayer> layers_;
  std::vector<int> layer_rope_;  // layer -> index in ropes_
  std::vector<RopeTable> ropes_;

  // Buffers of the largest stage; every stage binds the beginning of them, so they must outlive the stages.
  Mapping tokens_, embeddings_, hidden_, logits_, attended_;
  Mapping queries_, workspace_;  // of the attention operator
  std::size_t workspace_bytes_ = 0;
  struct PlannedCall {
    AttentionCall call;
    AttentionPlan plan;
    std::size_t workspace;  // offset
  };
  std::vector<PlannedCall> calls_;                         // of one layer
  std::vector<Stage> embed_, body_, fill_, block_, head_;  // smallest first
  std::unique_ptr<ThreadPool> pool_;
  litert::CompiledModel compiled_;
  std::unique_ptr<NativeStep> native_;

  // The step in progress, for the custom operator.
  std::vector<Part> parts_;  // in the order of their rows; one, but for steps of several sequences
  int64_t rows_ = 0;         // that hold tokens; the rest of the stage's rows is padding
  int64_t stage_rows_ = 0;
  bool filling_ = false;
  std::vector<int32_t> block_ends_;  // per row: the last position that it sees in sliding layers; empty without images
  Status step_status_;
};

}  // namespace tandem
