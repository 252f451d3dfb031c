#include "model/fast_target.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/rope_norm.h"
#include "litert/locked_tensors.h"

namespace tandem {
namespace {

constexpr const char* kEmbed = "tandem_embed_";
constexpr const char* kBody = "tandem_body_";
constexpr const char* kFill = "tandem_fill_";
constexpr const char* kBlock = "tandem_block_";
constexpr const char* kHead = "tandem_head_";
constexpr const char* kAttention = "tandem.attention";

// Rows up to which a step costs the same: reading the weights takes as long as multiplying them.
constexpr int64_t kFreeRows = 8;

// Multiply-adds below which waking another thread costs more than it gives.
constexpr int64_t kParallelMacs = 1 << 20;
constexpr int64_t kParallelValues = 1 << 15;
constexpr int64_t kExactRows = 16;        // most rows of a step that verifies drafts
constexpr std::size_t kBufferTail = 256;  // XNNPACK may read past the end of a tensor

Status too_large(int64_t rows, int64_t most) {
  return {Code::kInvalidRequest, "an image of " + std::to_string(rows) + " soft tokens is more than the " +
                                     std::to_string(most) +
                                     " that this bundle takes at once; use a smaller budget (max_soft_tokens)"};
}

}  // namespace

class FastTarget::FastCache : public TargetCache {
 public:
  FastCache(std::unique_ptr<SequenceCache> kv, uint64_t bytes) : kv_(std::move(kv)), bytes_(bytes) {}
  uint64_t bytes() const override { return bytes_; }
  // Without what others share: it may have to be copied.
  uint64_t used_bytes() const override { return kv_->own_bytes(); }
  int64_t rewind(int64_t position) override {
    hidden_rows_ = std::min(hidden_rows_, std::max<int64_t>(0, position - hidden_start_));
    if (kv_->holds(position)) return position;
    kv_->reset();
    hidden_rows_ = 0;
    return 0;
  }
  Result<std::unique_ptr<TargetCache>> clone() const override {
    auto copy = std::make_unique<FastCache>(kv_->clone(), bytes_);
    copy->keep_hidden(hidden_start_, hidden_rows_, hidden_.data(), hidden_size_);
    return std::unique_ptr<TargetCache>(std::move(copy));
  }
  int64_t resume_from() const override { return kv_->resume_from(); }
  std::vector<PageUse> pages() const override { return kv_->pages(); }
  SequenceCache& kv() { return *kv_; }
  const SequenceCache& kv() const { return *kv_; }
  void set(std::unique_ptr<SequenceCache> kv, uint64_t bytes) {
    kv_ = std::move(kv);
    bytes_ = bytes;
  }

  // Keeps the hidden states of tokens start ... for a drafter; none when count is 0.
  void keep_hidden(int64_t start, int64_t count, const float* rows, int64_t size) {
    hidden_.assign(rows, rows + count * size);
    hidden_size_ = size;
    hidden_start_ = start;
    hidden_rows_ = count;
  }
  std::span<const float> hidden(int64_t position) const {
    const int64_t row = position - hidden_start_;
    if (row < 0 || row >= hidden_rows_) return {};
    return {hidden_.data() + row * hidden_size_, static_cast<std::size_t>(hidden_size_)};
  }

 private:
  std::unique_ptr<SequenceCache> kv_;
  uint64_t bytes_;
  std::vector<float> hidden_;
  int64_t hidden_size_ = 0, hidden_start_ = 0, hidden_rows_ = 0;
};

bool FastTarget::supports(const litert::Model& model) {
  return std::any_of(model.signatures().begin(), model.signatures().end(),
                     [](const litert::Signature& signature) { return signature.key == std::string(kBody) + "1"; });
}

FastTarget::~FastTarget() = default;

Result<std::unique_ptr<FastTarget>> FastTarget::create(const litert::Environment& environment,
                                                       const litert::Model& model, const ModelSpec& spec,
                                                       std::optional<Weights> weights, int64_t max_context,
                                                       KvType kv_type, const litert::CpuOptions& options) {
  std::unique_ptr<FastTarget> target(new FastTarget);
  target->library_ = environment.library();
  target->spec_ = spec;
  target->max_context_ = max_context;
  target->kv_type_ = kv_type;
  TANDEM_ASSIGN_OR_RETURN(target->isa_, select_isa());
  target->pool_ = std::make_unique<ThreadPool>(options.num_threads);

  for (const LayerSpec& layer : spec.layers) {
    target->layers_.push_back({layer.kv_heads, layer.head_dim, layer.window});
    RopeTable table;
    table.pairs = layer.rope.rotated;
    for (int i = 0; i < table.pairs; ++i) {
      // As the published code: the exponent and the power in float32.
      const float exponent = static_cast<float>(2 * i) / static_cast<float>(layer.head_dim);
      const float frequency = 1.0f / std::pow(static_cast<float>(layer.rope.theta), exponent);
      table.inverse_frequency.push_back(frequency / static_cast<float>(layer.rope.factor));
    }
    const auto same = [&](const RopeTable& other) { return other.inverse_frequency == table.inverse_frequency; };
    const auto found = std::find_if(target->ropes_.begin(), target->ropes_.end(), same);
    target->layer_rope_.push_back(static_cast<int>(found - target->ropes_.begin()));
    if (found == target->ropes_.end()) target->ropes_.push_back(std::move(table));
  }

  TANDEM_RETURN_IF_ERROR(target->compile(environment, model, weights.has_value(), options));
  if (weights) {
    TANDEM_ASSIGN_OR_RETURN(target->native_,
                            NativeStep::create(weights->table, spec, std::move(weights->packed), *target->pool_));
    target->pool_->stay_awake(true);
  }
  return target;
}

Status FastTarget::compile(const litert::Environment& environment, const litert::Model& model, bool native,
                           const litert::CpuOptions& options) {
  litert::CpuOptions selected = options;
  struct Kind {
    const char* prefix;
    std::vector<Stage>* stages;
  };
  const std::array<Kind, 5> kinds{
      {{kEmbed, &embed_}, {kBody, &body_}, {kFill, &fill_}, {kBlock, &block_}, {kHead, &head_}}};
  for (const auto& [prefix, stages] : kinds) {
    if (native && stages != &embed_) continue;
    for (const litert::Signature& signature : model.signatures()) {
      if (!signature.key.starts_with(prefix) || signature.inputs.size() != 1 || signature.outputs.size() != 1) continue;
      Stage stage;
      stage.signature = &signature;
      stage.rows = signature.inputs[0].shape()[1];
      stages->push_back(std::move(stage));
      selected.signature_keys.push_back(signature.key);
    }
    if (stages->empty() && stages != &block_) {
      return {Code::kBundle, "the bundle lacks a fast graph; convert the model again"};
    }
    std::sort(stages->begin(), stages->end(), [](const Stage& a, const Stage& b) { return a.rows < b.rows; });
  }

  const auto floats = [](int64_t count, const char* what) {
    return reserve(static_cast<std::size_t>(count) * sizeof(float) + kBufferTail, what);
  };
  const int64_t step_rows = native ? NativeStep::kStepRows : head_.back().rows;
  const int64_t fill_rows = native ? NativeStep::kMostRows : fill_.back().rows;
  int64_t rows = std::max(fill_rows, step_rows);
  for (const std::vector<Stage>* stages : {&body_, &block_}) {
    if (!stages->empty()) rows = std::max(rows, stages->back().rows);
  }
  int64_t largest_query = 0;
  for (const LayerSpec& layer : spec_.layers) {
    largest_query = std::max<int64_t>(largest_query, int64_t{spec_.num_heads} * layer.head_dim);
  }
  TANDEM_ASSIGN_OR_RETURN(tokens_, floats(rows, "tokens"));
  TANDEM_ASSIGN_OR_RETURN(embeddings_, floats(rows * spec_.hidden_size, "embeddings"));
  TANDEM_ASSIGN_OR_RETURN(hidden_, floats(rows * spec_.hidden_size, "hidden states"));
  TANDEM_ASSIGN_OR_RETURN(logits_, floats(step_rows * spec_.vocab_size, "logits"));
  TANDEM_ASSIGN_OR_RETURN(attended_, floats(rows * largest_query, "attention"));
  TANDEM_ASSIGN_OR_RETURN(queries_, floats(rows * largest_query, "queries"));
  TANDEM_RETURN_IF_ERROR(bind(embed_, tokens_, embeddings_));
  TANDEM_RETURN_IF_ERROR(bind(body_, embeddings_, hidden_));
  TANDEM_RETURN_IF_ERROR(bind(fill_, embeddings_, attended_));
  TANDEM_RETURN_IF_ERROR(bind(block_, embeddings_, attended_));
  TANDEM_RETURN_IF_ERROR(bind(head_, hidden_, logits_));

  litert::CustomOp attention;
  attention.name = kAttention;
  attention.user = this;
  attention.kernel.init = [](void*, const void*, std::size_t) { return litert::kRtOk; };
  attention.kernel.output_layouts = &FastTarget::attention_layouts;
  attention.kernel.run = &FastTarget::attention_run;
  attention.kernel.destroy = [](void*) { return litert::kRtOk; };
  selected.custom_ops.push_back(attention);
  TANDEM_ASSIGN_OR_RETURN(compiled_, litert::CompiledModel::create(environment, model, selected));
  return {};
}

Status FastTarget::bind(std::vector<Stage>& stages, const Mapping& input, const Mapping& output) {
  for (Stage& stage : stages) {
    for (const auto& [info, memory, buffer] : {std::tuple{&stage.signature->inputs[0], &input, &stage.input},
                                               {&stage.signature->outputs[0], &output, &stage.output}}) {
      if (info->bytes() + kBufferTail > memory->get_deleter().bytes) {
        return {Code::kBundle, "'" + stage.signature->key +
                                   "' has tensors of another size than the manifest says; "
                                   "convert the model again"};
      }
      litert::RtTensorBuffer raw = nullptr;
      TANDEM_RETURN_IF_ERROR(litert::to_status(
          library_->CreateTensorBufferFromHostMemory(&info->type, memory->get(), info->bytes(), nullptr, &raw),
          "buffer of '" + stage.signature->key + "'"));
      *buffer = litert::TensorBuffer(library_, raw);
    }
  }
  return {};
}

Result<std::unique_ptr<TargetCache>> FastTarget::new_cache() {
  TANDEM_ASSIGN_OR_RETURN(auto kv, SequenceCache::create(layers_, max_context_, max_rows(), kv_type_));
  const uint64_t bytes = SequenceCache::reserved_bytes(layers_, max_context_, max_rows(), kv_type_);
  return std::unique_ptr<TargetCache>(std::make_unique<FastCache>(std::move(kv), bytes));
}

int64_t FastTarget::max_rows() const {
  return native_ ? NativeStep::kFillRows : std::max(body_.back().rows, fill_.back().rows);
}

Status FastTarget::make_room(FastCache& cache, int64_t start, int64_t rows) const {
  if (rows <= cache.kv().max_rows()) return {};
  TANDEM_ASSIGN_OR_RETURN(auto wide, cache.kv().widened(start, rows));
  cache.set(std::move(wide), SequenceCache::reserved_bytes(layers_, max_context_, rows, kv_type_));
  return {};
}

const FastTarget::Stage& FastTarget::covering(const std::vector<Stage>& stages, int64_t rows) {
  const auto found = std::find_if(stages.begin(), stages.end(), [&](const Stage& stage) { return stage.rows >= rows; });
  return found == stages.end() ? stages.back() : *found;
}

const FastTarget::Stage& FastTarget::first_piece(const std::vector<Stage>& stages, int64_t left) {
  if (left >= stages.back().rows) return stages.back();
  // cost[n]: of the best way to run n tokens; a stage with padding covers the rest at once.
  std::vector<int64_t> cost(static_cast<std::size_t>(left) + 1, 0);
  const Stage* best = &stages.front();
  for (int64_t n = 1; n <= left; ++n) {
    int64_t lowest = std::numeric_limits<int64_t>::max();
    for (const Stage& stage : stages) {
      const int64_t rest = cost[static_cast<std::size_t>(std::max<int64_t>(0, n - stage.rows))];
      const int64_t total = std::max(stage.rows, kFreeRows) + rest;
      if (total <= lowest) {  // of equals the larger: fewer pieces
        lowest = total;
        best = &stage;
      }
    }
    cost[static_cast<std::size_t>(n)] = lowest;
  }
  return *best;
}

Status FastTarget::run(const Stage& stage) {
  std::vector<litert::RtTensorBuffer> inputs{stage.input.get()}, outputs{stage.output.get()};
  const Status status = compiled_.run(*stage.signature, inputs, outputs);
  return step_status_.ok() ? status : step_status_;
}

void FastTarget::prepare_ropes() {
  for (RopeTable& rope : ropes_) {
    rope.cosine.resize(static_cast<std::size_t>(rows_ * rope.pairs));
    rope.sine.resize(static_cast<std::size_t>(rows_ * rope.pairs));
    for (const Part& part : parts_) {
      const int64_t at = part.first * rope.pairs;
      rope_table(rope.inverse_frequency.data(), rope.pairs, part.start, static_cast<int>(part.rows),
                 rope.cosine.data() + at, rope.sine.data() + at);
    }
  }
}

Status FastTarget::embed_rows(int64_t start, std::span<const int32_t> ids, std::span<const SoftRows> soft,
                              int64_t rows) {
  const auto count = static_cast<int64_t>(ids.size());
  auto* embeddings = static_cast<float*>(embeddings_.get());
  int64_t filled = 0, given = 0;
  for (const SoftRows& span : soft) {
    given += std::max<int64_t>(0, std::min(span.end(), start + count) - std::max(span.first, start));
  }
  if (given < count) {  // an image that is larger than any lookup is a step of its own
    const Stage& lookup = covering(embed_, count);
    auto* tokens = static_cast<int32_t*>(tokens_.get());
    std::fill_n(std::copy(ids.begin(), ids.end(), tokens), lookup.rows - count, 0);
    TANDEM_RETURN_IF_ERROR(run(lookup));
    filled = lookup.rows;
  }
  for (const SoftRows& span : soft) {
    const int64_t first = std::max(span.first, start), last = std::min(span.end(), start + count);
    if (first >= last) continue;
    std::copy_n(span.values + (first - span.first) * spec_.hidden_size, (last - first) * spec_.hidden_size,
                embeddings + (first - start) * spec_.hidden_size);
    filled = std::max(filled, last - start);
  }
  if (filled < rows) std::fill_n(embeddings + filled * spec_.hidden_size, (rows - filled) * spec_.hidden_size, 0.0f);
  return {};
}

void FastTarget::set_block_ends(int64_t start, int64_t count, std::span<const SoftRows> soft) {
  block_ends_.clear();
  for (const SoftRows& span : soft) {
    if (!span.block || span.first >= start + count || span.end() <= start) continue;
    block_ends_.resize(static_cast<std::size_t>(count), -1);
    std::fill_n(block_ends_.begin() + (span.first - start), span.rows, static_cast<int32_t>(span.end() - 1));
  }
}

Status FastTarget::begin(SequenceCache& cache, int64_t start, std::span<const int32_t> ids,
                         std::span<const SoftRows> soft, int64_t stage_rows) {
  const auto count = static_cast<int64_t>(ids.size());
  step_status_ = {};
  TANDEM_RETURN_IF_ERROR(embed_rows(start, ids, soft, stage_rows));  // padding must be finite
  set_block_ends(start, count, soft);
  TANDEM_RETURN_IF_ERROR(cache.prepare(start, count));
  parts_.assign(1, {&cache, start, 0, count});
  rows_ = count;
  stage_rows_ = stage_rows;
  prepare_ropes();
  return {};
}

Status FastTarget::run_layers(const Stage& stage, SequenceCache& cache, int64_t start, std::span<const int32_t> ids,
                              std::span<const SoftRows> soft) {
  TANDEM_RETURN_IF_ERROR(begin(cache, start, ids, soft, stage.rows));
  const Status status = run(stage);
  parts_.clear();
  return status;
}

Status FastTarget::run_native(SequenceCache& cache, int64_t start, std::span<const int32_t> ids,
                              std::span<const SoftRows> soft, const std::atomic<bool>& cancelled) {
  TANDEM_RETURN_IF_ERROR(begin(cache, start, ids, soft, static_cast<int64_t>(ids.size())));
  const Status status = run_native_layers(cancelled);
  parts_.clear();
  return status;
}

Status FastTarget::run_native_layers(const std::atomic<bool>& cancelled) {
  const auto* embeddings = static_cast<const float*>(embeddings_.get());
  const auto attend_layer = [this](int layer, const float* q, const float* k, const float* v,
                                   const LayerWeights& weights, float* out) {
    return attention(q, k, v, weights.q_norm, weights.k_norm, layer, out);
  };
  const auto rows = static_cast<int>(rows_);
  return filling_ ? native_->fill(embeddings, rows, attend_layer, cancelled)
                  : native_->run(embeddings, rows, attend_layer, static_cast<float*>(hidden_.get()));
}

const FastTarget::Stage* FastTarget::filling_stage(int64_t take) const {
  if (take < fill_.front().rows) return &covering(body_, take);
  if (take <= fill_.back().rows) return &covering(fill_, take);
  const Stage* stage = block_.empty() ? nullptr : &covering(block_, take);
  return stage != nullptr && stage->rows >= take ? stage : nullptr;
}

Status FastTarget::fill_native(FastCache& cache, int64_t start, std::span<const int32_t> ids,
                               std::span<const SoftRows> soft, const std::atomic<bool>& cancelled, int64_t* done) {
  const int64_t piece = std::min<int64_t>(static_cast<int64_t>(ids.size()), NativeStep::kFillRows);
  const int64_t take = whole_blocks(soft, start, piece);
  if (take > NativeStep::kMostRows) return too_large(take, NativeStep::kMostRows);
  TANDEM_RETURN_IF_ERROR(make_room(cache, start, take));
  filling_ = true;
  TANDEM_RETURN_IF_ERROR(run_native(cache.kv(), start, ids.first(static_cast<std::size_t>(take)), soft, cancelled));
  *done += take;
  return {};
}

Status FastTarget::fill_graph(FastCache& cache, int64_t start, std::span<const int32_t> ids,
                              std::span<const SoftRows> soft, int64_t* done) {
  const auto left = static_cast<int64_t>(ids.size());
  const Stage* stage = left < fill_.front().rows ? &covering(body_, left) : &first_piece(fill_, left);
  const int64_t piece = std::min(left, stage->rows), take = whole_blocks(soft, start, piece);
  if (take != piece) stage = filling_stage(take);
  if (stage == nullptr) return too_large(take, max_rows());
  if (take > max_rows()) TANDEM_RETURN_IF_ERROR(make_room(cache, start, stage->rows));
  filling_ = !stage->signature->key.starts_with(kBody);
  TANDEM_RETURN_IF_ERROR(run_layers(*stage, cache.kv(), start, ids.first(static_cast<std::size_t>(take)), soft));
  *done += take;
  return {};
}

Status FastTarget::prefill(TargetCache& cache, int64_t start, std::span<const int32_t> ids,
                           std::span<const SoftRows> soft, StepGate& gate, int64_t* done) {
  auto& own = static_cast<FastCache&>(cache);
  *done = 0;
  while (*done < static_cast<int64_t>(ids.size())) {
    const StepTurn turn(gate);
    TANDEM_RETURN_IF_ERROR(turn.status());
    own.keep_hidden(0, 0, nullptr, 0);
    const auto rest = ids.subspan(static_cast<std::size_t>(*done));
    TANDEM_RETURN_IF_ERROR(native_ ? fill_native(own, start + *done, rest, soft, gate.cancelled(), done)
                                   : fill_graph(own, start + *done, rest, soft, done));
  }
  return {};
}

void FastTarget::score(std::span<ScoreItem* const> items) {
  std::vector<int32_t> ids;
  std::vector<ScoreItem*> ready;
  parts_.clear();
  rows_ = 0;
  for (ScoreItem* item : items) {
    item->done = 0;
    const int64_t take = std::min(static_cast<int64_t>(item->ids.size()), step_rows() - rows_);
    SequenceCache& cache = kv(*item->cache);
    // What cannot be prepared stays out of the step; the others go on.
    item->status = cache.prepare(item->start, take);
    if (!item->status.ok() || take == 0) continue;
    ready.push_back(item);
    parts_.push_back({&cache, item->start, rows_, take});
    ids.insert(ids.end(), item->ids.begin(), item->ids.begin() + take);
    rows_ += take;
  }
  if (ready.empty()) return;

  const std::vector<Part> parts = parts_;
  Status status = run_parts(ids);
  parts_.clear();
  const auto* hidden = static_cast<const float*>(hidden_.get());
  const bool direct = native_ && ready.size() == 1;  // else the rows go to several places
  if (status.ok()) status = run_head(rows_, direct ? ready.front()->logits : nullptr);
  for (ScoreItem* item : ready) item->status = status;
  if (!status.ok()) return;
  for (std::size_t i = 0; i < ready.size(); ++i) {
    static_cast<FastCache&>(*ready[i]->cache)
        .keep_hidden(parts[i].start, parts[i].rows, hidden + parts[i].first * spec_.hidden_size, spec_.hidden_size);
    ready[i]->done = parts[i].rows;
  }
  if (direct) return;
  pool_->run(static_cast<int64_t>(ready.size()), [&](int64_t i) {
    const Part& part = parts[static_cast<std::size_t>(i)];
    std::copy_n(static_cast<const float*>(logits_.get()) + part.first * spec_.vocab_size, part.rows * spec_.vocab_size,
                ready[static_cast<std::size_t>(i)]->logits);
  });
}

Status FastTarget::run_parts(std::span<const int32_t> ids) {
  const Stage* stage = native_ ? nullptr : &covering(body_, rows_);
  step_status_ = {};
  filling_ = false;
  block_ends_.clear();
  stage_rows_ = native_ ? rows_ : stage->rows;
  TANDEM_RETURN_IF_ERROR(embed_rows(0, ids, {}, stage_rows_));
  prepare_ropes();
  static const std::atomic<bool> never = false;  // a step with logits is short
  return native_ ? run_native_layers(never) : run(*stage);
}

Status FastTarget::run_head(int64_t rows, float* logits) {
  if (!native_) return run(covering(head_, rows));
  auto* shared = static_cast<float*>(logits_.get());
  native_->head(static_cast<const float*>(hidden_.get()), static_cast<int>(rows), logits != nullptr ? logits : shared);
  return {};
}

Status FastTarget::save(const TargetCache& cache, const std::string& path, const Snapshot& snapshot) const {
  return save_snapshot(path, snapshot, static_cast<const FastCache&>(cache).kv());
}

Result<Snapshot> FastTarget::restore(TargetCache& cache, const std::string& path, const Sha256Digest& bundle) const {
  auto& own = static_cast<FastCache&>(cache);
  TANDEM_ASSIGN_OR_RETURN(auto kv, SequenceCache::create(layers_, max_context_, max_rows(), kv_type_));
  TANDEM_ASSIGN_OR_RETURN(Snapshot snapshot, restore_snapshot(path, bundle, *kv, pool_->threads()));
  const uint64_t bytes = SequenceCache::reserved_bytes(layers_, max_context_, kv->max_rows(), kv_type_);
  own.set(std::move(kv), bytes);  // perhaps wider than a new one: the session had seen a large image
  own.keep_hidden(0, 0, nullptr, 0);
  return snapshot;
}

SequenceCache& FastTarget::kv(TargetCache& cache) { return static_cast<FastCache&>(cache).kv(); }

std::span<const float> FastTarget::hidden(const TargetCache& cache, int64_t position) {
  return static_cast<const FastCache&>(cache).hidden(position);
}

Status FastTarget::embed(int32_t id, float* out) {
  const Stage& lookup = embed_.front();
  auto* tokens = static_cast<int32_t*>(tokens_.get());
  std::fill_n(tokens, lookup.rows, id);
  step_status_ = {};
  TANDEM_RETURN_IF_ERROR(run(lookup));
  std::memcpy(out, embeddings_.get(), static_cast<std::size_t>(spec_.hidden_size) * sizeof(float));
  return {};
}

litert::RtStatus FastTarget::attention_layouts(void*, std::size_t, const litert::RtLayout* inputs, std::size_t,
                                               litert::RtLayout* outputs) {
  outputs[0] = inputs[0];
  return litert::kRtOk;
}

litert::RtStatus FastTarget::attention_run(void* user, std::size_t num_inputs, const litert::RtTensorBuffer* inputs,
                                           std::size_t num_outputs, litert::RtTensorBuffer* outputs) {
  auto& target = *static_cast<FastTarget*>(user);
  constexpr litert::RtStatus kFailure = 3;
  if (num_inputs != 6 || num_outputs != 1 || target.parts_.empty()) return kFailure;
  litert::LockedTensors in(*target.library_, litert::kLockRead), out(*target.library_, litert::kLockWrite);
  const auto* q = in.get<const float>(inputs[0]);
  const auto* k = in.get<const float>(inputs[1]);
  const auto* v = in.get<const float>(inputs[2]);
  const auto* q_norm = in.get<const float>(inputs[3]);
  const auto* k_norm = in.get<const float>(inputs[4]);
  const auto* layer = in.get<const int32_t>(inputs[5]);
  auto* result = out.get<float>(outputs[0]);
  if (!q || !k || !v || !q_norm || !k_norm || !layer || !result) return kFailure;
  if (*layer < 0 || *layer >= static_cast<int32_t>(target.layers_.size())) return kFailure;
  target.step_status_ = target.attention(q, k, v, q_norm, k_norm, *layer, result);
  return target.step_status_.ok() ? litert::kRtOk : kFailure;
}

Status FastTarget::attention(const float* q, const float* k, const float* v, const float* q_norm, const float* k_norm,
                             int layer, float* out) {
  const auto index = static_cast<std::size_t>(layer);
  const CacheLayer& shape = layers_[index];
  const RopeTable& rope = ropes_[static_cast<std::size_t>(layer_rope_[index])];
  const int dim = shape.head_dim, heads = spec_.num_heads;
  auto* queries = static_cast<float*>(queries_.get());

  // Of the last layer only the cache is wanted when filling; the graphs compute its queries all the same.
  const bool only_cache = filling_ && index + 1 == layers_.size();

  // Norm and rope of rows [first, last) of one part; keys and values go to its cache.
  const auto transform = [&](const Part& part, int64_t first, int64_t last) {
    const int64_t position = part.start + first - part.first;
    const int tokens = static_cast<int>(last - first);
    HeadTransform head;
    head.normalise = true;
    head.epsilon = static_cast<float>(spec_.rms_norm_eps);
    head.cosine = rope.cosine.data() + first * rope.pairs;
    head.sine = rope.sine.data() + first * rope.pairs;
    head.pairs = rope.pairs;
    head.weight = q_norm;
    const int64_t q_at = first * heads * dim, kv_at = first * shape.kv_heads * dim;
    if (!only_cache) transform_heads(q + q_at, tokens, heads, dim, head, queries + q_at, isa_);
    head.weight = k_norm;
    append_heads(k + kv_at, tokens, shape.kv_heads, dim, head, part.cache->k(layer), position, isa_);
    HeadTransform value;
    value.normalise = spec_.v_norm;
    value.epsilon = head.epsilon;
    append_heads(v + kv_at, tokens, shape.kv_heads, dim, value, part.cache->v(layer), position, isa_);
  };
  const int64_t pieces = rows_ * heads * dim < kParallelValues ? 1 : std::min<int64_t>(rows_, pool_->threads());
  pool_->run(pieces, [&](int64_t i) {
    for (const Part& part : parts_) {
      const int64_t first = std::max(part.first, rows_ * i / pieces);
      const int64_t last = std::min(part.first + part.rows, rows_ * (i + 1) / pieces);
      if (first < last) transform(part, first, last);
    }
  });

  std::fill_n(out + rows_ * heads * dim, (stage_rows_ - rows_) * heads * dim, 0.0f);
  if (only_cache) return {};

  // A kernel adds in another order for several tokens than for one, and 8-bit activations turn the last bit of that
  // into a visible difference. A step that verifies drafts must give what plain decoding gives: token by token.
  calls_.clear();
  int64_t scores = 0;  // keys that all rows see together, at most
  for (const Part& part : parts_) {
    AttentionCall all;
    all.shape = {heads, shape.kv_heads, dim, 1.0f, 0.0f};  // the scale is part of q_norm
    all.tokens = static_cast<int>(part.rows);
    all.first_position = part.start;
    all.window = shape.window;
    if (shape.window > 0 && !block_ends_.empty()) all.block_end = block_ends_.data() + part.first;
    all.q = queries + part.first * heads * dim;
    all.k = part.cache->k(layer);
    all.v = part.cache->v(layer);
    all.out = out + part.first * heads * dim;
    const int64_t end = part.start + part.rows;
    scores += part.rows * (shape.window > 0 ? std::min(end, shape.window + part.rows) : end);
    if ((filling_ && !native_) || part.rows > kExactRows) {
      calls_.push_back({all, {}, 0});
      continue;
    }
    for (int64_t t = 0; t < part.rows; ++t) {
      AttentionCall one = all;
      one.tokens = 1;
      one.first_position = part.start + t;
      if (all.block_end != nullptr) one.block_end = all.block_end + t;
      one.q = all.q + t * heads * dim;
      one.out = all.out + t * heads * dim;
      calls_.push_back({one, {}, 0});
    }
  }
  const int threads = scores * heads * dim < kParallelMacs ? 1 : pool_->threads();
  std::size_t needed = 0;
  bool merge = false;
  for (PlannedCall& one : calls_) {
    TANDEM_ASSIGN_OR_RETURN(one.plan, plan_attention(one.call, isa_));
    one.workspace = needed;
    needed += (one.plan.workspace_bytes(threads) + 63) / 64 * 64;
    merge = merge || one.plan.splits > 1;
  }
  if (needed > workspace_bytes_) {
    TANDEM_ASSIGN_OR_RETURN(workspace_, reserve(needed, "attention"));
    workspace_bytes_ = needed;
  }
  const auto each = [&](auto&& work) {
    pool_->run(threads, [&](int64_t i) {
      for (const PlannedCall& one : calls_) {
        work(one.call, one.plan, static_cast<char*>(workspace_.get()) + one.workspace, static_cast<int>(i), threads);
      }
    });
  };
  each(attend);
  if (merge) each(attend_merge);
  return {};
}

}  // namespace tandem
