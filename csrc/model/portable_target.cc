#include "model/portable_target.h"

#include <algorithm>
#include <cstring>

#include "model/portable_mask.h"

namespace tandem {
namespace {

constexpr const char* kEmbedded = "embedded_prefill_";

Status malformed(const std::string& what) {
  return {Code::kBundle, "the bundle's graphs are not Tandem's: " + what + "; convert the model again"};
}

}  // namespace

Result<std::unique_ptr<PortableTarget>> PortableTarget::create(const litert::Environment& environment,
                                                               const litert::Model& model, int64_t hidden_size,
                                                               const litert::CpuOptions& options) {
  auto target = std::make_unique<PortableTarget>();
  target->library_ = environment.library();
  litert::CpuOptions selected = options;
  const auto& signatures = model.signatures();
  const bool media = std::any_of(signatures.begin(), signatures.end(),
                                 [](const auto& signature) { return signature.key.starts_with(kEmbedded); });
  for (const litert::Signature& signature : signatures) {
    const bool decode = signature.key == "decode";
    std::vector<Step>* steps = nullptr;
    if (signature.key.starts_with("prefill_")) steps = &target->prefill_;
    if (signature.key.starts_with("score_")) steps = &target->score_;
    if (signature.key.starts_with(kEmbedded)) steps = &target->embedded_;
    if (signature.key.starts_with("tandem_embed_") && media) steps = &target->lookup_;
    if (steps == nullptr && !decode) continue;
    selected.signature_keys.push_back(signature.key);
    TANDEM_ASSIGN_OR_RETURN(Step step, make_step(target->library_, signature));
    if (decode) {
      target->decode_ = std::move(step);
    } else {
      steps->push_back(std::move(step));
    }
  }
  if (target->decode_.signature == nullptr || target->decode_.logits == nullptr || target->decode_.rows != 1) {
    return malformed("no 'decode' signature with logits");
  }
  for (const Step& step : target->score_) {
    if (step.logits == nullptr) return malformed("'" + step.signature->key + "' has no logits");
  }
  if (media && target->lookup_.empty()) return malformed("no 'tandem_embed' signature");
  for (const std::vector<Step>* steps : {&target->embedded_, &target->lookup_}) {
    for (const Step& step : *steps) {
      if (step.embeddings == nullptr || step.width != hidden_size) {
        return malformed("'" + step.signature->key + "' has embeddings of another size");
      }
    }
  }
  const auto larger = [](const Step& a, const Step& b) { return a.rows > b.rows; };
  std::sort(target->prefill_.begin(), target->prefill_.end(), larger);
  std::sort(target->score_.begin(), target->score_.end(), larger);
  std::sort(target->embedded_.begin(), target->embedded_.end(), larger);
  std::sort(target->lookup_.begin(), target->lookup_.end(), larger);

  for (const litert::TensorInfo& input : target->decode_.signature->inputs) {
    if (input.name == "mask") target->context_ = input.shape().back();
  }
  for (const litert::TensorInfo& output : target->decode_.signature->outputs) {
    if (output.name == "logits") target->vocab_size_ = output.shape().back();
  }
  TANDEM_ASSIGN_OR_RETURN(target->compiled_, litert::CompiledModel::create(environment, model, selected));
  return target;
}

Result<PortableTarget::Step> PortableTarget::make_step(const std::shared_ptr<const litert::Library>& library,
                                                       const litert::Signature& signature) {
  Step step;
  step.signature = &signature;
  for (const litert::TensorInfo& input : signature.inputs) {
    if (is_kv_name(input.name)) {
      step.inputs.push_back(nullptr);
      continue;
    }
    TANDEM_ASSIGN_OR_RETURN(auto tensor, litert::HostTensor::create(library, input));
    if (input.name == "tokens" && input.type.element_type == litert::kInt32) {
      step.tokens = tensor.data<int32_t>();
      step.rows = input.elements();
    } else if (input.name == "embeddings" && input.type.element_type == litert::kFloat32 && input.shape().size() == 3) {
      step.embeddings = tensor.data<float>();
      step.rows = input.shape()[1];
      step.width = input.shape()[2];
    } else if (input.name == "input_pos" && input.type.element_type == litert::kInt32) {
      step.positions = tensor.data<int32_t>();
    } else if (input.name == "mask") {
      step.mask = tensor.data<void>();
      step.mask_is_bool = input.type.element_type == litert::kBool;
    } else {
      return malformed("'" + signature.key + "' has an unknown input '" + input.name + "'");
    }
    step.inputs.push_back(tensor.buffer());
    step.owned.push_back(std::move(tensor));
  }
  for (const litert::TensorInfo& output : signature.outputs) {
    if (is_kv_name(output.name)) {
      step.outputs.push_back(nullptr);
      continue;
    }
    TANDEM_ASSIGN_OR_RETURN(auto tensor, litert::HostTensor::create(library, output));
    if (output.name == "logits") step.logits = tensor.data<float>();
    if (output.name == "embeddings" && output.shape().size() == 3) {
      step.embeddings = tensor.data<float>();
      step.width = output.shape()[2];
    }
    step.outputs.push_back(tensor.buffer());
    step.owned.push_back(std::move(tensor));
  }
  const bool lookup = step.tokens != nullptr && step.embeddings != nullptr;
  if (step.rows < 1 || (!lookup && (step.positions == nullptr || step.mask == nullptr))) {
    return malformed("'" + signature.key + "' lacks tokens, input_pos or mask");
  }
  return step;
}

Result<std::unique_ptr<TargetCache>> PortableTarget::new_cache() {
  TANDEM_ASSIGN_OR_RETURN(auto cache, PortableCache::create(library_, *decode_.signature));
  return std::unique_ptr<TargetCache>(std::move(cache));
}

void PortableTarget::mask_step(Step& step, int64_t start, int64_t count, std::span<const SoftRows> soft) const {
  if (step.mask_is_bool) {
    fill_mask<uint8_t>(static_cast<uint8_t*>(step.mask), step.rows, context_, start, count, soft, 1, 0);
  } else {
    fill_mask(static_cast<float*>(step.mask), step.rows, context_, start, count, soft, 0.0f, kMasked);
  }
}

Status PortableTarget::embed(Step& step, int64_t start, std::span<const int32_t> ids, std::span<const SoftRows> soft) {
  const auto count = static_cast<int64_t>(ids.size());
  const int64_t width = step.width;
  std::fill_n(step.embeddings, step.rows * width, 0.0f);
  for (int64_t at = 0; at < count;) {
    const Step& lookup = *std::find_if(lookup_.rbegin(), std::prev(lookup_.rend()),
                                       [&](const Step& one) { return one.rows >= count - at; });
    const int64_t take = std::min(count - at, lookup.rows);
    std::copy_n(ids.begin() + at, take, lookup.tokens);
    std::fill_n(lookup.tokens + take, lookup.rows - take, 0);
    std::vector<litert::RtTensorBuffer> inputs = lookup.inputs, outputs = lookup.outputs;
    TANDEM_RETURN_IF_ERROR(compiled_.run(*lookup.signature, inputs, outputs));
    std::copy_n(lookup.embeddings, take * width, step.embeddings + at * width);
    at += take;
  }
  for (const SoftRows& span : soft) {
    const int64_t first = std::max(span.first, start), last = std::min(span.end(), start + count);
    if (first >= last) continue;
    std::copy_n(span.values + (first - span.first) * width, (last - first) * width,
                step.embeddings + (first - start) * width);
  }
  return {};
}

Status PortableTarget::run(Step& step, PortableCache& cache, int64_t start, std::span<const int32_t> ids,
                           std::span<const SoftRows> soft) {
  const auto count = static_cast<int64_t>(ids.size());
  if (step.tokens == nullptr) TANDEM_RETURN_IF_ERROR(embed(step, start, ids, soft));
  for (int64_t row = 0; row < step.rows; ++row) {
    if (step.tokens != nullptr) step.tokens[row] = row < count ? ids[static_cast<std::size_t>(row)] : 0;
    step.positions[row] = static_cast<int32_t>(row < count ? start + row : 0);
  }
  mask_step(step, start, count, soft);
  std::vector<litert::RtTensorBuffer> inputs = step.inputs;
  std::vector<litert::RtTensorBuffer> outputs = step.outputs;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i] == nullptr) inputs[i] = cache.find(step.signature->inputs[i].name);
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i] == nullptr) outputs[i] = cache.find(step.signature->outputs[i].name);
  }
  cache.written(start + count);
  return compiled_.run(*step.signature, inputs, outputs);
}

PortableTarget::Step& PortableTarget::choose(std::vector<Step>& steps, int64_t start, int64_t left) {
  for (Step& step : steps) {
    if (left * 2 >= step.rows && start + step.rows <= context_) return step;
  }
  return decode_;
}

PortableTarget::Step* PortableTarget::embedding_step(int64_t start, int64_t take) {
  for (auto step = embedded_.rbegin(); step != embedded_.rend(); ++step) {
    if (step->rows >= take && start + step->rows <= context_) return &*step;
  }
  return nullptr;
}

Status PortableTarget::prefill(TargetCache& cache, int64_t start, std::span<const int32_t> ids,
                               std::span<const SoftRows> soft, StepGate& gate, int64_t* done) {
  *done = 0;
  while (*done < static_cast<int64_t>(ids.size())) {
    const StepTurn turn(gate);
    TANDEM_RETURN_IF_ERROR(turn.status());
    const int64_t left = static_cast<int64_t>(ids.size()) - *done, position = start + *done;
    Step* step = &choose(prefill_, position, left);
    const int64_t piece = std::min(left, step->rows), take = whole_blocks(soft, position, piece);
    const bool mixed = std::any_of(soft.begin(), soft.end(), [&](const SoftRows& span) {
      return span.first < position + take && span.end() > position;
    });
    if (mixed || take != piece) step = embedded_.empty() ? nullptr : embedding_step(position, take);
    if (step == nullptr) {
      return {
          Code::kInvalidRequest,
          "an image of " + std::to_string(take) + " soft tokens does not fit into one step of the portable graphs (" +
              std::to_string(embedded_.empty() ? 0 : embedded_.front().rows) +
              " tokens, less near the end of the context); use a smaller budget (max_soft_tokens), or graph='fast'"};
    }
    const auto first = static_cast<std::size_t>(*done);
    TANDEM_RETURN_IF_ERROR(run(*step, static_cast<PortableCache&>(cache), position,
                               ids.subspan(first, static_cast<std::size_t>(take)), soft));
    *done += take;
  }
  return {};
}

void PortableTarget::score(std::span<ScoreItem* const> items) {
  // The graphs know one cache at a time.
  for (ScoreItem* item : items) {
    const auto left = static_cast<int64_t>(item->ids.size());
    Step& step = choose(score_, item->start, left);
    const int64_t take = std::min(left, step.rows);
    item->done = 0;
    item->status = run(step, static_cast<PortableCache&>(*item->cache), item->start,
                       item->ids.first(static_cast<std::size_t>(take)), {});
    if (!item->status.ok()) continue;
    std::memcpy(item->logits, step.logits, static_cast<std::size_t>(take * vocab_size_) * sizeof(float));
    item->done = take;
  }
}

Status PortableTarget::save(const TargetCache&, const std::string& path, const Snapshot&) const {
  return {Code::kInvalidRequest, "cannot save a session of the portable graphs to '" + path +
                                     "'; open the engine with graph='fast', or keep the tokens and prefill them again"};
}

Result<Snapshot> PortableTarget::restore(TargetCache&, const std::string& path, const Sha256Digest&) const {
  return Status(Code::kInvalidRequest, "cannot restore the session in '" + path +
                                           "' on the portable graphs; open the engine with graph='fast'");
}

}  // namespace tandem
