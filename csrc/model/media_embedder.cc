#include "model/media_embedder.h"

#include <algorithm>

namespace tandem {
namespace {

constexpr int64_t kStepRows = 280;  // signatures with more are left alone: they take memory and are no faster

Status malformed(const std::string& what) {
  return {Code::kBundle, "the bundle's media models are not Tandem's: " + what + "; convert the model again"};
}

}  // namespace

Result<MediaEmbedder::Step> MediaEmbedder::make_step(const std::shared_ptr<const litert::Library>& library,
                                                     const litert::Signature& signature, const Place& place) {
  Step step;
  step.signature = &signature;
  const auto bad = [&](const litert::TensorInfo& info) {
    return malformed("'" + signature.key + "' has an unexpected tensor '" + info.name + "'");
  };
  for (const litert::TensorInfo& input : signature.inputs) {
    const std::vector<int64_t> shape = input.shape();
    if (shape.size() != 3 || shape[1] < 1) return bad(input);
    TANDEM_ASSIGN_OR_RETURN(auto tensor, litert::HostTensor::create(library, input));
    if (input.type.element_type == litert::kFloat32 && shape[2] == place.input_width) {
      step.values = tensor.data<float>();
      step.rows = shape[1];
    } else if (input.type.element_type == litert::kInt32 && shape[2] == 2 && place.positions) {
      step.positions = tensor.data<int32_t>();
      if (step.rows != shape[1]) return bad(input);
    } else {
      return bad(input);
    }
    step.inputs.push_back(tensor.buffer());
    step.owned.push_back(std::move(tensor));
  }
  for (const litert::TensorInfo& output : signature.outputs) {
    TANDEM_ASSIGN_OR_RETURN(auto tensor, litert::HostTensor::create(library, output));
    if (output.name == "features") {
      if (output.type.element_type != litert::kFloat32 || output.elements() != step.rows * place.hidden_size) {
        return bad(output);
      }
      step.features = tensor.data<float>();
    }
    step.outputs.push_back(tensor.buffer());
    step.owned.push_back(std::move(tensor));
  }
  if (step.values == nullptr || step.features == nullptr || (step.positions != nullptr) != place.positions) {
    return malformed("'" + signature.key + "' lacks a tensor");
  }
  return step;
}

Result<std::unique_ptr<MediaEmbedder>> MediaEmbedder::create(const litert::Environment& environment, const Place& place,
                                                             const litert::CpuOptions& options,
                                                             litert::WeightCache cache) {
  std::unique_ptr<MediaEmbedder> embedder(new MediaEmbedder(std::move(cache)));
  embedder->place_ = place;
  TANDEM_ASSIGN_OR_RETURN(auto model, litert::Model::from_fd(environment, place.fd, place.offset, place.bytes));
  embedder->model_ = std::make_unique<litert::Model>(std::move(model));
  litert::CpuOptions selected = options;
  for (const litert::Signature& signature : embedder->model_->signatures()) {
    if (!signature.key.starts_with(place.prefix)) continue;
    TANDEM_ASSIGN_OR_RETURN(Step step, make_step(environment.library(), signature, place));
    if (step.rows > kStepRows) continue;
    selected.signature_keys.push_back(signature.key);
    embedder->steps_.push_back(std::move(step));
  }
  if (embedder->steps_.empty()) return malformed("no '" + place.prefix + "' signature");
  std::sort(embedder->steps_.begin(), embedder->steps_.end(),
            [](const Step& a, const Step& b) { return a.rows < b.rows; });
  TANDEM_RETURN_IF_ERROR(embedder->cache_.compile([&]() -> Status {
    embedder->compiled_ = {};
    selected.weight_cache_path = embedder->cache_.path();
    selected.weight_cache_fd = embedder->cache_.fd();
    TANDEM_ASSIGN_OR_RETURN(embedder->compiled_,
                            litert::CompiledModel::create(environment, *embedder->model_, selected));
    return {};
  }));
  return embedder;
}

Status MediaEmbedder::embed(std::span<const float> rows, std::span<const int32_t> positions, float* out) {
  const std::lock_guard lock(mutex_);
  const int64_t count = static_cast<int64_t>(rows.size()) / place_.input_width;
  for (int64_t at = 0; at < count;) {
    const int64_t left = count - at;
    const auto covering =
        std::find_if(steps_.begin(), steps_.end(), [&](const Step& step) { return step.rows >= left; });
    Step& step = covering == steps_.end() ? steps_.back() : *covering;
    const int64_t take = std::min(left, step.rows);
    std::copy_n(rows.data() + at * place_.input_width, take * place_.input_width, step.values);
    std::fill_n(step.values + take * place_.input_width, (step.rows - take) * place_.input_width, 0.0f);
    if (place_.positions) {
      std::copy_n(positions.data() + at * 2, take * 2, step.positions);
      std::fill_n(step.positions + take * 2, (step.rows - take) * 2, -1);
    }
    TANDEM_RETURN_IF_ERROR(compiled_.run(*step.signature, step.inputs, step.outputs));
    std::copy_n(step.features, take * place_.hidden_size, out + at * place_.hidden_size);
    at += take;
  }
  return {};
}

}  // namespace tandem
