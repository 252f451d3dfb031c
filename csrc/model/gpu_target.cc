#include "model/gpu_target.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <string_view>

#include "model/portable_cache.h"
#include "model/portable_mask.h"
#include "model/portable_pages.h"

namespace tandem {
namespace {

// Rows of the prefill that is compiled: enough to use a GPU well, and few enough that the end of a prompt costs little.
constexpr int64_t kPrefillRows = 64;

constexpr std::string_view kPrefill = "prefill_", kEmbedded = "embedded_prefill_", kEmbed = "tandem_embed_";

Status malformed(const std::string& what) {
  return {Code::kBundle, "the bundle's graphs are not Tandem's: " + what + "; convert the model again"};
}

Status bad_results(const std::string& what) {
  return {Code::kBackend, "the GPU's results cannot be right: " + what +
                              "; the device was lost or is out of memory, or its driver is broken: use backend='cpu'"};
}

// The number behind `prefix` in a signature's name; 0 when it is another signature.
int64_t rows_of(std::string_view key, std::string_view prefix) {
  int64_t rows = 0;
  if (!key.starts_with(prefix)) return 0;
  const char* end = key.data() + key.size();
  return std::from_chars(key.data() + prefix.size(), end, rows).ptr == end ? rows : 0;
}

const litert::Signature* find_signature(const litert::Model& model, std::string_view key) {
  const auto& all = model.signatures();
  const auto found = std::find_if(all.begin(), all.end(), [&](const auto& signature) { return signature.key == key; });
  return found == all.end() ? nullptr : &*found;
}

// The signature `prefix`N with the largest N up to `most`.
const litert::Signature* largest(const litert::Model& model, std::string_view prefix, int64_t most) {
  const litert::Signature* best = nullptr;
  int64_t rows = 0;
  for (const litert::Signature& signature : model.signatures()) {
    const int64_t n = rows_of(signature.key, prefix);
    if (n > rows && n <= most) {
      best = &signature;
      rows = n;
    }
  }
  return best;
}

}  // namespace

class GpuTarget::AnyCache : public TargetCache {
 public:
  // What the cache holds below `position`, on this side.
  virtual Result<std::unique_ptr<SequenceCache>> to_pages(int64_t position) const = 0;
};

// Keys and values of one sequence on the device, and the hidden states of the newest step.
class GpuTarget::Cache : public AnyCache {
 public:
  int64_t rewind(int64_t position) override {
    hidden_rows = std::clamp<int64_t>(position - hidden_start, 0, hidden_rows);
    return position;
  }
  uint64_t bytes() const override {
    uint64_t total = 0;
    for (const auto& side : sides) {
      for (const litert::DeviceTensor& tensor : side) total += tensor.bytes();
    }
    return total;
  }
  // Through this side: LiteRT copies nothing on the device.
  Result<std::unique_ptr<TargetCache>> clone() const override;
  Result<std::unique_ptr<TargetCache>> parked() const override;
  Result<std::unique_ptr<SequenceCache>> to_pages(int64_t position) const override;
  // Fills the current side with `count` positions, and with zeros behind them.
  Status from_pages(const SequenceCache& pages, int64_t count);
  // What may be taken is counted for the device as a whole, not by what is left of it.
  uint64_t used_bytes() const override { return 0; }
  int64_t resume_from() const override { return 1; }
  std::vector<PageUse> pages() const override {
    std::vector<PageUse> all;
    for (const auto& side : sides) {
      for (const litert::DeviceTensor& tensor : side) all.push_back({&tensor, tensor.bytes()});
    }
    return all;
  }
  std::size_t smallest() const {
    const auto& side = sides[0];
    const auto less = [](const auto& a, const auto& b) { return a.bytes() < b.bytes(); };
    return static_cast<std::size_t>(std::min_element(side.begin(), side.end(), less) - side.begin());
  }
  litert::RtTensorBuffer find(const std::string& name, int side) const {
    const auto found =
        std::find_if(tensors.begin(), tensors.end(), [&](const auto& info) { return info.name == name; });
    if (found == tensors.end()) return nullptr;
    return sides[side][static_cast<std::size_t>(found - tensors.begin())].buffer();
  }

  GpuTarget* target = nullptr;
  std::vector<litert::TensorInfo> tensors;
  std::vector<litert::DeviceTensor> sides[2];
  int current = 0;      // the side that holds the sequence
  int64_t written = 0;  // end of the positions that ever were
  std::vector<float> hidden;
  int64_t hidden_start = 0, hidden_rows = 0, hidden_size = 0;
};

// A sequence that waits in this process's memory: only what it holds, once, where the device would hold the whole
// context twice.
class GpuTarget::Parked : public AnyCache {
 public:
  Parked(GpuTarget& target, std::unique_ptr<SequenceCache> pages) : target_(target), pages_(std::move(pages)) {}
  int64_t rewind(int64_t position) override { return position; }
  uint64_t bytes() const override { return pages_->bytes(); }
  uint64_t used_bytes() const override { return pages_->own_bytes(); }
  int64_t resume_from() const override { return 1; }
  std::vector<PageUse> pages() const override { return pages_->pages(); }
  Result<std::unique_ptr<SequenceCache>> to_pages(int64_t) const override { return pages_->clone(); }
  Result<std::unique_ptr<TargetCache>> clone() const override {
    const std::lock_guard lock(target_.mutex_);
    TANDEM_ASSIGN_OR_RETURN(auto cache, target_.make_cache());
    TANDEM_RETURN_IF_ERROR(cache->from_pages(*pages_, pages_->high_water()));
    return std::unique_ptr<TargetCache>(std::move(cache));
  }

 private:
  GpuTarget& target_;
  std::unique_ptr<SequenceCache> pages_;
};

GpuTarget::GpuTarget(const litert::Environment& environment, const litert::Model& model, std::mutex& creation,
                     Wishes wishes)
    : environment_(environment), model_(model), creation_(creation), wishes_(std::move(wishes)) {}

Result<std::unique_ptr<GpuTarget>> GpuTarget::create(const litert::Environment& environment, const litert::Model& model,
                                                     std::mutex& creation, const Wishes& wishes) {
  std::unique_ptr<GpuTarget> target(new GpuTarget(environment, model, creation, wishes));
  const char* key = wishes.verify ? "verify" : "decode";
  const litert::Signature* step = find_signature(model, key);
  if (step == nullptr) return malformed(std::string("no '") + key + "' signature");
  for (const litert::TensorInfo& input : step->inputs) {
    if (input.name == "mask") target->context_ = input.shape().back();
  }
  for (const litert::TensorInfo& output : step->outputs) {
    if (output.name == "logits") target->vocab_size_ = output.shape().back();
  }
  const litert::Signature* prefill = largest(model, kEmbedded, kPrefillRows);
  if (prefill == nullptr || prefill->key == "embedded_prefill_1") prefill = largest(model, kPrefill, kPrefillRows);
  target->keys_ = {step->key};
  if (prefill != nullptr) target->keys_.push_back(prefill->key);
  TANDEM_RETURN_IF_ERROR(target->compile());
  TANDEM_ASSIGN_OR_RETURN(target->step_, target->make_step(*step));
  if (target->step_.logits < 0 || target->vocab_size_ < 1 || (wishes.verify && target->step_.activations < 0)) {
    return malformed(std::string("'") + key + "' has no logits or activations");
  }
  if (prefill != nullptr) {
    TANDEM_ASSIGN_OR_RETURN(target->prefill_, target->make_step(*prefill));
  }
  TANDEM_RETURN_IF_ERROR(target->make_lookups());
  TANDEM_RETURN_IF_ERROR(target->warm_up());
  return target;
}

GpuTarget::~GpuTarget() = default;

Status GpuTarget::warm_up() {
  TANDEM_ASSIGN_OR_RETURN(spare_, make_cache());
  const int32_t ids[] = {0};
  if (prefill_.signature != nullptr) TANDEM_RETURN_IF_ERROR(run(prefill_, *spare_, 0, ids, {}));
  return run_checked(*spare_, 0, ids);
}

Status GpuTarget::compile() {
  litert::GpuOptions options = wishes_.gpu;
  options.signature_keys = keys_;
  for (const std::string& key : keys_) options.cache_name += "-" + key;
  compiled_ = {};
  if (step_.positions >= 0) {  // the device frees what it held when it is waited for
    const litert::DeviceTensor& positions = step_.owned[static_cast<std::size_t>(step_.positions)];
    std::vector<std::byte> ignored(positions.bytes());
    TANDEM_RETURN_IF_ERROR(positions.read(ignored.data()));
  }
  TANDEM_ASSIGN_OR_RETURN(compiled_, litert::compile_for_gpu(environment_, model_, options));
  return {};
}

Result<GpuTarget::Step> GpuTarget::make_step(const litert::Signature& signature) {
  Step step;
  step.signature = &signature;
  const auto own = [&](std::size_t index, bool output) -> Status {
    TANDEM_ASSIGN_OR_RETURN(
        auto tensor, litert::DeviceTensor::create(environment_, compiled_, signature, index, output, &transfers_));
    (output ? step.outputs : step.inputs).push_back(tensor.buffer());
    step.owned.push_back(std::move(tensor));
    return {};
  };
  for (std::size_t i = 0; i < signature.inputs.size(); ++i) {
    const litert::TensorInfo& input = signature.inputs[i];
    if (is_kv_name(input.name)) {
      step.inputs.push_back(nullptr);
      continue;
    }
    const bool ids = input.type.element_type == litert::kInt32, floats = input.type.element_type == litert::kFloat32;
    const std::vector<int64_t> shape = input.shape();
    const int place = static_cast<int>(step.owned.size());
    if (input.name == "tokens" && ids) {
      step.tokens = place;
      step.rows = input.elements();
    } else if (input.name == "embeddings" && floats && shape.size() == 3 && shape[2] == wishes_.hidden_size) {
      step.embeddings = place;
      step.rows = shape[1];
    } else if (input.name == "input_pos" && ids) {
      step.positions = place;
    } else if (input.name == "mask" && floats) {
      step.mask = place;
    } else {
      return malformed("'" + signature.key + "' has an unknown input '" + input.name + "'");
    }
    TANDEM_RETURN_IF_ERROR(own(i, false));
  }
  for (std::size_t i = 0; i < signature.outputs.size(); ++i) {
    const litert::TensorInfo& output = signature.outputs[i];
    if (is_kv_name(output.name)) {
      step.outputs.push_back(nullptr);
      continue;
    }
    const int place = static_cast<int>(step.owned.size());
    if (output.name == "logits" && output.elements() == step.rows * vocab_size_) step.logits = place;
    if (output.name == "activations" && output.elements() == step.rows * wishes_.hidden_size) step.activations = place;
    TANDEM_RETURN_IF_ERROR(own(i, true));
  }
  const bool fits = step.positions >= 0 && step.mask >= 0 && step.rows >= 1 &&
                    step.owned[static_cast<std::size_t>(step.positions)].bytes() ==
                        static_cast<std::size_t>(step.rows) * sizeof(int32_t) &&
                    step.owned[static_cast<std::size_t>(step.mask)].bytes() ==
                        static_cast<std::size_t>(step.rows * context_) * sizeof(float);
  if (!fits) return malformed("'" + signature.key + "' lacks tokens, input_pos or mask");
  return step;
}

Status GpuTarget::make_lookups() {
  litert::CpuOptions options;  // a lookup reads the table where it lies; there is nothing to pack
  for (const litert::Signature& signature : model_.signatures()) {
    Lookup lookup;
    lookup.rows = rows_of(signature.key, kEmbed);
    if (lookup.rows == 0) continue;
    if (signature.inputs.size() != 1 || signature.inputs[0].elements() != lookup.rows ||
        signature.outputs.size() != 1 || signature.outputs[0].elements() != lookup.rows * wishes_.hidden_size) {
      return malformed("'" + signature.key + "' has embeddings of another size");
    }
    lookup.signature = &signature;
    const auto& library = environment_.library();
    TANDEM_ASSIGN_OR_RETURN(lookup.tokens, litert::HostTensor::create(library, signature.inputs[0]));
    TANDEM_ASSIGN_OR_RETURN(lookup.embeddings, litert::HostTensor::create(library, signature.outputs[0]));
    options.signature_keys.push_back(signature.key);
    lookups_.push_back(std::move(lookup));
  }
  if (lookups_.empty()) return malformed("no 'tandem_embed' signature");
  std::sort(lookups_.begin(), lookups_.end(), [](const Lookup& a, const Lookup& b) { return a.rows < b.rows; });
  TANDEM_ASSIGN_OR_RETURN(lookup_model_, litert::CompiledModel::create(environment_, model_, options));
  return {};
}

Status GpuTarget::embed(std::span<const int32_t> ids, float* out) {
  while (!ids.empty()) {
    const Lookup& lookup = *std::find_if(lookups_.begin(), std::prev(lookups_.end()), [&](const Lookup& one) {
      return one.rows >= static_cast<int64_t>(ids.size());
    });
    const auto take = std::min(ids.size(), static_cast<std::size_t>(lookup.rows));
    std::copy_n(ids.begin(), take, lookup.tokens.data<int32_t>());
    std::fill(lookup.tokens.data<int32_t>() + take, lookup.tokens.data<int32_t>() + lookup.rows, 0);
    std::vector<litert::RtTensorBuffer> inputs{lookup.tokens.buffer()}, outputs{lookup.embeddings.buffer()};
    TANDEM_RETURN_IF_ERROR(lookup_model_.run(*lookup.signature, inputs, outputs));
    out = std::copy_n(lookup.embeddings.data<float>(), take * static_cast<std::size_t>(wishes_.hidden_size), out);
    ids = ids.subspan(take);
  }
  return {};
}

Result<std::unique_ptr<TargetCache>> GpuTarget::new_cache() {
  const std::lock_guard lock(mutex_);
  if (spare_ != nullptr) return std::unique_ptr<TargetCache>(std::move(spare_));
  TANDEM_ASSIGN_OR_RETURN(auto cache, make_cache());
  return std::unique_ptr<TargetCache>(std::move(cache));
}

Result<std::unique_ptr<GpuTarget::Cache>> GpuTarget::make_cache() {
  auto cache = std::make_unique<Cache>();
  cache->target = this;
  for (std::vector<litert::DeviceTensor>& side : cache->sides) {
    for (std::size_t i = 0; i < step_.signature->inputs.size(); ++i) {
      if (!is_kv_name(step_.signature->inputs[i].name)) continue;
      if (&side == &cache->sides[0]) cache->tensors.push_back(step_.signature->inputs[i]);
      TANDEM_ASSIGN_OR_RETURN(
          auto tensor, litert::DeviceTensor::create(environment_, compiled_, *step_.signature, i, false, &transfers_));
      side.push_back(std::move(tensor));
    }
  }
  if (cache->tensors.empty()) return malformed("'" + step_.signature->key + "' has no cache");
  // Only what is read must be finite; a run writes the other side as a whole.
  for (const litert::DeviceTensor& tensor : cache->sides[0]) TANDEM_RETURN_IF_ERROR(tensor.clear());
  return cache;
}

Status GpuTarget::upload(const Step& step, int64_t start, std::span<const int32_t> ids,
                         std::span<const SoftRows> soft) {
  const auto count = static_cast<int64_t>(ids.size());
  const auto rows = static_cast<std::size_t>(step.rows);
  const auto tensor = [&](int place) -> const litert::DeviceTensor& {
    return step.owned[static_cast<std::size_t>(place)];
  };
  if (step.tokens >= 0) {
    tokens_.assign(rows, 0);
    std::copy(ids.begin(), ids.end(), tokens_.begin());
    TANDEM_RETURN_IF_ERROR(tensor(step.tokens).write(tokens_.data()));
  }
  if (step.embeddings >= 0) {
    const int64_t width = wishes_.hidden_size;
    embeddings_.assign(rows * static_cast<std::size_t>(width), 0.0f);
    TANDEM_RETURN_IF_ERROR(embed(ids, embeddings_.data()));
    for (const SoftRows& span : soft) {
      const int64_t first = std::max(span.first, start), last = std::min(span.end(), start + count);
      if (first >= last) continue;
      std::copy_n(span.values + (first - span.first) * width, (last - first) * width,
                  embeddings_.data() + (first - start) * width);
    }
    TANDEM_RETURN_IF_ERROR(tensor(step.embeddings).write(embeddings_.data()));
  }
  positions_.assign(rows, 0);
  for (int64_t row = 0; row < count; ++row)
    positions_[static_cast<std::size_t>(row)] = static_cast<int32_t>(start + row);
  TANDEM_RETURN_IF_ERROR(tensor(step.positions).write(positions_.data()));
  mask_.resize(rows * static_cast<std::size_t>(context_));
  fill_mask(mask_.data(), step.rows, context_, start, count, soft, 0.0f, kMasked);
  return tensor(step.mask).write(mask_.data());
}

Status GpuTarget::run(Step& step, Cache& cache, int64_t start, std::span<const int32_t> ids,
                      std::span<const SoftRows> soft) {
  if (compiled_.get() == nullptr)
    return {Code::kBackend, "the GPU holds no model after an error; open the bundle again"};
  TANDEM_RETURN_IF_ERROR(upload(step, start, ids, soft));
  std::vector<litert::RtTensorBuffer> inputs = step.inputs, outputs = step.outputs;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i] == nullptr) inputs[i] = cache.find(step.signature->inputs[i].name, cache.current);
    if (inputs[i] == nullptr) return malformed("'" + step.signature->key + "' has a cache tensor of its own");
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i] == nullptr) outputs[i] = cache.find(step.signature->outputs[i].name, 1 - cache.current);
    if (outputs[i] == nullptr) return malformed("'" + step.signature->key + "' has a cache tensor of its own");
  }
  const std::size_t witness = cache.smallest();
  std::vector<float> values;
  if (!step.proven) {
    values.assign(cache.sides[0][witness].bytes() / sizeof(float), std::numeric_limits<float>::quiet_NaN());
    TANDEM_RETURN_IF_ERROR(cache.sides[1 - cache.current][witness].write(values.data()));
  }
  transfers_.runs += 1;
  cache.written = std::max(cache.written, start + static_cast<int64_t>(ids.size()));
  TANDEM_RETURN_IF_ERROR(compiled_.run(*step.signature, inputs, outputs));
  cache.current = 1 - cache.current;
  if (step.proven) return {};
  // A run that the device cannot make, for want of memory, is dropped without a word.
  TANDEM_RETURN_IF_ERROR(cache.sides[cache.current][witness].read(values.data()));
  step.proven = std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
  return step.proven ? Status() : bad_results("'" + step.signature->key + "' does not write its keys and values");
}

Result<GpuTarget::Step*> GpuTarget::embedded_step(int64_t position, int64_t take) {
  const litert::Signature* signature = largest(model_, kEmbedded, context_ - position);
  if (signature == nullptr || rows_of(signature->key, kEmbedded) < take) return static_cast<Step*>(nullptr);
  for (Step& step : embedded_) {
    if (step.signature == signature) return &step;
  }
  if (prefill_.signature == signature) return &prefill_;
  const std::lock_guard lock(creation_);
  keys_.push_back(signature->key);
  if (const Status status = compile(); !status.ok()) {  // most likely there is no memory for it: text may go on
    keys_.pop_back();
    TANDEM_RETURN_IF_ERROR(compile());
    return status;
  }
  for (Step* step : {&step_, &prefill_}) step->proven = false;
  for (Step& step : embedded_) step.proven = false;
  TANDEM_ASSIGN_OR_RETURN(Step step, make_step(*signature));
  return &embedded_.emplace_back(std::move(step));
}

Result<std::unique_ptr<TargetCache>> GpuTarget::Cache::clone() const {
  const std::lock_guard lock(target->mutex_);
  TANDEM_ASSIGN_OR_RETURN(auto copy, target->make_cache());
  std::vector<std::byte> values;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const litert::DeviceTensor& from = sides[current][i];
    values.resize(from.bytes());
    TANDEM_RETURN_IF_ERROR(from.read(values.data()));
    TANDEM_RETURN_IF_ERROR(copy->sides[copy->current][i].write(values.data()));
  }
  copy->written = written;
  copy->hidden = hidden;
  copy->hidden_start = hidden_start;
  copy->hidden_rows = hidden_rows;
  copy->hidden_size = hidden_size;
  return std::unique_ptr<TargetCache>(std::move(copy));
}

Result<std::unique_ptr<SequenceCache>> GpuTarget::Cache::to_pages(int64_t position) const {
  const std::lock_guard lock(target->mutex_);
  TANDEM_ASSIGN_OR_RETURN(auto pages, portable_pages(tensors));
  const int64_t count = std::min(position, written);
  TANDEM_RETURN_IF_ERROR(pages->prepare(0, count));
  std::vector<float> values;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const litert::DeviceTensor& from = sides[current][i];
    values.resize(from.bytes() / sizeof(float));
    TANDEM_RETURN_IF_ERROR(from.read(values.data()));
    tensor_to_pages(tensors[i], values.data(), count, *pages);
  }
  return pages;
}

Status GpuTarget::Cache::from_pages(const SequenceCache& pages, int64_t count) {
  std::vector<float> values;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const litert::DeviceTensor& to = sides[current][i];
    values.assign(to.bytes() / sizeof(float), 0.0f);
    pages_to_tensor(pages, tensors[i], count, values.data());
    TANDEM_RETURN_IF_ERROR(to.write(values.data()));
  }
  written = count;
  hidden_rows = 0;
  return {};
}

Result<std::unique_ptr<TargetCache>> GpuTarget::Cache::parked() const {
  TANDEM_ASSIGN_OR_RETURN(auto pages, to_pages(written));
  return std::unique_ptr<TargetCache>(std::make_unique<Parked>(*target, std::move(pages)));
}

Status GpuTarget::save(const TargetCache& cache, const std::string& path, const Snapshot& snapshot) const {
  TANDEM_ASSIGN_OR_RETURN(const auto pages, static_cast<const AnyCache&>(cache).to_pages(snapshot.position));
  return save_snapshot(path, snapshot, *pages);
}

Result<Snapshot> GpuTarget::restore(TargetCache& cache, const std::string& path, const Sha256Digest& bundle) const {
  auto& own = static_cast<Cache&>(cache);
  TANDEM_ASSIGN_OR_RETURN(const auto pages, portable_pages(own.tensors));
  TANDEM_ASSIGN_OR_RETURN(Snapshot snapshot, restore_snapshot(path, bundle, *pages, 1));
  const std::lock_guard lock(mutex_);
  TANDEM_RETURN_IF_ERROR(own.from_pages(*pages, snapshot.position));
  return snapshot;
}

Status GpuTarget::prefill(TargetCache& cache, int64_t start, std::span<const int32_t> ids,
                          std::span<const SoftRows> soft, StepGate& gate, int64_t* done) {
  *done = 0;
  auto& own = static_cast<Cache&>(cache);
  while (*done < static_cast<int64_t>(ids.size())) {
    const StepTurn turn(gate);
    TANDEM_RETURN_IF_ERROR(turn.status());
    const std::lock_guard lock(mutex_);
    own.hidden_rows = 0;
    const int64_t left = static_cast<int64_t>(ids.size()) - *done, position = start + *done;
    // A step with padding costs no more than one without, so the large one is for all that fits; but an update of the
    // cache must not reach behind its end (`verify` sees to that itself).
    const bool fits = prefill_.signature != nullptr && left > 1 && position + prefill_.rows <= context_;
    Step* step = fits ? &prefill_ : &step_;
    const int64_t piece = std::min(left, step->rows), take = whole_blocks(soft, position, piece);
    const bool mixed = std::any_of(soft.begin(), soft.end(), [&](const SoftRows& span) {
      return span.first < position + take && span.end() > position;
    });
    if ((mixed && step->embeddings < 0) || take > piece) {
      TANDEM_ASSIGN_OR_RETURN(step, embedded_step(position, take));
      if (step == nullptr) {
        return {Code::kInvalidRequest,
                "an image of " + std::to_string(take) + " soft tokens at position " + std::to_string(position) +
                    " does not fit into one step of the GPU's graphs, inside their context of " +
                    std::to_string(context_) + "; use a smaller budget (max_soft_tokens), or backend='cpu'"};
      }
    }
    const auto first = static_cast<std::size_t>(*done);
    TANDEM_RETURN_IF_ERROR(run(*step, own, position, ids.subspan(first, static_cast<std::size_t>(take)), soft));
    *done += take;
  }
  return {};
}

Status GpuTarget::poison_logits() {
  std::fill(logits_.begin(), logits_.end(), std::numeric_limits<float>::quiet_NaN());
  return step_.owned[static_cast<std::size_t>(step_.logits)].write(logits_.data());
}

Status GpuTarget::run_checked(Cache& cache, int64_t start, std::span<const int32_t> ids) {
  const litert::DeviceTensor& device = step_.owned[static_cast<std::size_t>(step_.logits)];
  const auto row = static_cast<std::size_t>(vocab_size_), values = ids.size() * row;
  logits_.resize(static_cast<std::size_t>(step_.rows) * row);
  // A device that does nothing leaves the last step's logits, which nobody could tell from a model that repeats itself.
  // So the first step, and any that looks like the one before, overwrites what may not be there any more. Running
  // twice is harmless: it writes the same keys and values.
  if (last_row_.empty()) TANDEM_RETURN_IF_ERROR(poison_logits());
  TANDEM_RETURN_IF_ERROR(run(step_, cache, start, ids, {}));
  TANDEM_RETURN_IF_ERROR(device.read(logits_.data()));
  if (!last_row_.empty() && std::equal(last_row_.begin(), last_row_.end(), logits_.begin())) {
    TANDEM_RETURN_IF_ERROR(poison_logits());
    TANDEM_RETURN_IF_ERROR(run(step_, cache, start, ids, {}));
    TANDEM_RETURN_IF_ERROR(device.read(logits_.data()));
  }
  float low = logits_[0], high = logits_[0];
  bool finite = true;
  for (std::size_t i = 0; i < values; ++i) {
    finite = finite && std::isfinite(logits_[i]);
    low = std::min(low, logits_[i]);
    high = std::max(high, logits_[i]);
  }
  last_row_.clear();  // after an error the next step is suspicious
  if (!finite) return bad_results("logits that are not finite numbers");
  if (low == high) return bad_results("all logits are equal");
  last_row_.assign(logits_.begin(), logits_.begin() + static_cast<std::ptrdiff_t>(row));
  return {};
}

void GpuTarget::score(std::span<ScoreItem* const> items) {
  // The graphs know one cache at a time.
  for (ScoreItem* item : items) item->status = score(*item);
}

Status GpuTarget::score(ScoreItem& item) {
  const std::lock_guard lock(mutex_);
  auto& own = static_cast<Cache&>(*item.cache);
  const auto piece = item.ids.first(std::min(item.ids.size(), static_cast<std::size_t>(step_.rows)));
  const auto take = static_cast<int64_t>(piece.size());
  item.done = 0;
  own.hidden_rows = 0;
  TANDEM_RETURN_IF_ERROR(run_checked(own, item.start, piece));
  std::copy_n(logits_.begin(), take * vocab_size_, item.logits);
  if (wishes_.verify) {
    own.hidden.resize(static_cast<std::size_t>(step_.rows * wishes_.hidden_size));
    TANDEM_RETURN_IF_ERROR(step_.owned[static_cast<std::size_t>(step_.activations)].read(own.hidden.data()));
    own.hidden_start = item.start;
    own.hidden_rows = take;
    own.hidden_size = wishes_.hidden_size;
  }
  item.done = take;
  return {};
}

litert::RtTensorBuffer GpuTarget::kv(const TargetCache& cache, const std::string& name) {
  const auto& own = static_cast<const Cache&>(cache);
  return own.find(name, own.current);
}

std::span<const float> GpuTarget::hidden(const TargetCache& cache, int64_t position) {
  const auto& own = static_cast<const Cache&>(cache);
  const int64_t row = position - own.hidden_start;
  if (row < 0 || row >= own.hidden_rows) return {};
  return {own.hidden.data() + row * own.hidden_size, static_cast<std::size_t>(own.hidden_size)};
}

}  // namespace tandem
