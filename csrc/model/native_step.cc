#include "model/native_step.h"

#include <algorithm>
#include <array>
#include <string>

namespace tandem {
namespace {

constexpr int64_t kVector = 64;           // floats that a norm takes at a time
constexpr int64_t kPieceBytes = 1 << 19;  // of a matrix that a thread takes at a time
constexpr int64_t kSmall = 1 << 16;       // bytes below which waking another thread costs more than it gives

PackedMatrix packed_shape(const MatrixPlace& place) {
  PackedMatrix matrix;
  matrix.inputs = static_cast<int64_t>(place.inputs);
  matrix.outputs = static_cast<int64_t>(place.outputs);
  matrix.bits = static_cast<int>(place.bits);
  return matrix;
}

bool fits(const MatrixPlace& place) {
  if (place.block != 0 || (place.bits != 4 && place.bits != 8)) return false;
  const PackedMatrix matrix = packed_shape(place);
  return matrix.inputs % kVector == 0 && matrix.outputs % kVector == 0;
}

std::vector<MatrixPlace> places(const LayerWeights& layer, bool k_eq_v) {
  std::vector<MatrixPlace> all = {layer.q, layer.k, layer.o, layer.gate, layer.up, layer.down};
  if (!k_eq_v) all.push_back(layer.v);
  return all;
}

float* floats(const Mapping& memory) { return static_cast<float*>(memory.get()); }

}  // namespace

bool NativeStep::suits(const WeightTable& table, const ModelSpec& spec) {
  if (!linear_available() || !fits(table.embed)) return false;
  for (std::size_t i = 0; i < table.layers.size(); ++i) {
    const auto all = places(table.layers[i], spec.layers[i].k_eq_v);
    if (!std::all_of(all.begin(), all.end(), fits)) return false;
  }
  return true;
}

Result<std::unique_ptr<NativeStep>> NativeStep::create(const WeightTable& table, const ModelSpec& spec,
                                                       std::span<const std::byte> model, PackedWeights packed,
                                                       ThreadPool& pool) {
  std::unique_ptr<NativeStep> step(new NativeStep);
  step->table_ = table;
  step->spec_ = spec;
  step->packed_ = std::move(packed);
  step->pool_ = &pool;

  bool sound = true;
  const auto find = [&](const MatrixPlace& place) {
    PackedMatrix matrix = packed_shape(place);
    const std::span<const std::byte> bytes = step->packed_.find(place.buffer);
    sound = sound && bytes.size() == static_cast<std::size_t>(matrix.bytes());
    matrix.data = bytes.data();
    sound = sound && holds(matrix, model.data() + place.offset);
    return matrix;
  };
  step->embed_ = find(table.embed);
  int64_t widest = spec.hidden_size, widest_q = 0, widest_kv = 0;
  for (std::size_t i = 0; i < table.layers.size(); ++i) {
    const LayerWeights& layer = table.layers[i];
    Matrices found{find(layer.q), find(layer.k), {}, find(layer.o), find(layer.gate), find(layer.up), find(layer.down)};
    if (!spec.layers[i].k_eq_v) found.v = find(layer.v);
    widest_q = std::max(widest_q, found.q.outputs);
    widest_kv = std::max(widest_kv, found.k.outputs);
    step->layers_.push_back(found);
  }
  if (!sound) {
    return Status(Code::kBackend, "the backend packs weights in another layout than the native steps know");
  }
  widest = std::max({widest, int64_t{spec.intermediate_size}, widest_q});

  const auto rows = [](int64_t size) {
    return reserve(static_cast<std::size_t>(kMaxRows * size) * sizeof(float), "a step");
  };
  TANDEM_ASSIGN_OR_RETURN(step->residual_, rows(spec.hidden_size));
  TANDEM_ASSIGN_OR_RETURN(step->normed_, rows(spec.hidden_size));
  TANDEM_ASSIGN_OR_RETURN(step->q_, rows(widest_q));
  TANDEM_ASSIGN_OR_RETURN(step->k_, rows(widest_kv));
  TANDEM_ASSIGN_OR_RETURN(step->v_, rows(widest_kv));
  TANDEM_ASSIGN_OR_RETURN(step->attended_, rows(widest_q));
  TANDEM_ASSIGN_OR_RETURN(step->gate_, rows(spec.intermediate_size));
  TANDEM_ASSIGN_OR_RETURN(step->up_, rows(spec.intermediate_size));
  TANDEM_ASSIGN_OR_RETURN(step->values_, reserve(static_cast<std::size_t>(kMaxRows * widest), "a step"));
  step->scales_.resize(kMaxRows);
  step->zeros_.resize(kMaxRows);
  step->bytes_ = {static_cast<uint8_t*>(step->values_.get()), widest, step->scales_.data(), step->zeros_.data()};
  return step;
}

void NativeStep::quantise(const float* in, int64_t size, int rows) {
  for (int row = 0; row < rows; ++row) quantise_row(in + row * size, size, row, bytes_);
}

void NativeStep::multiply(std::span<const Product> products, int rows) {
  // Pieces of about equal bytes, over all the products.
  std::array<int64_t, 4> pieces{};
  int64_t total = 0;
  for (std::size_t i = 0; i < products.size(); ++i) {
    pieces[i] = std::max<int64_t>(1, products[i].matrix->bytes() / kPieceBytes);
    total += pieces[i];
  }
  int64_t bytes = 0;
  for (const Product& product : products) bytes += product.matrix->bytes();
  const auto multiply_piece = [&](int64_t piece) {
    std::size_t i = 0;
    while (piece >= pieces[i]) piece -= pieces[i++];
    const auto& [matrix, out] = products[i];
    const int64_t groups = matrix->groups();
    linear(*matrix, bytes_, rows, groups * piece / pieces[i], groups * (piece + 1) / pieces[i], out, matrix->outputs);
  };
  if (bytes < kSmall) {
    for (int64_t piece = 0; piece < total; ++piece) multiply_piece(piece);
  } else {
    pool_->run(total, multiply_piece);
  }
}

void NativeStep::multiply_gated(const Matrices& layer, int rows) {
  const int64_t groups = layer.gate.groups(), size = layer.gate.group(), width = layer.gate.outputs;
  const int64_t pieces = std::max<int64_t>(1, 2 * layer.gate.bytes() / kPieceBytes);
  pool_->run(pieces, [&](int64_t piece) {
    const int64_t first = groups * piece / pieces, last = groups * (piece + 1) / pieces;
    linear(layer.gate, bytes_, rows, first, last, floats(gate_), width);
    linear(layer.up, bytes_, rows, first, last, floats(up_), width);
    for (int row = 0; row < rows; ++row) {
      const int64_t at = row * width + first * size;
      gated_gelu(floats(up_) + at, (last - first) * size, floats(gate_) + at);
    }
  });
}

Status NativeStep::run(const float* embeddings, int rows, const Attention& attention, float* hidden) {
  const int64_t size = spec_.hidden_size;
  const auto epsilon = static_cast<float>(spec_.rms_norm_eps);
  float *h = floats(residual_), *normed = floats(normed_);
  std::copy_n(embeddings, rows * size, h);
  const auto norm = [&](const float* weight, float* out) {
    for (int row = 0; row < rows; ++row) rms_norm(h + row * size, weight, epsilon, size, out + row * size);
  };
  const auto add = [&](const float* weight, float scale) {
    for (int row = 0; row < rows; ++row) add_normed(normed + row * size, weight, epsilon, scale, size, h + row * size);
  };
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const Matrices& layer = layers_[i];
    const LayerWeights& weights = table_.layers[i];
    norm(weights.input_norm, normed);
    quantise(normed, size, rows);
    const bool own_v = layer.v.data != nullptr;
    const std::array<Product, 3> inputs{{{&layer.q, floats(q_)}, {&layer.k, floats(k_)}, {&layer.v, floats(v_)}}};
    multiply(std::span(inputs).first(own_v ? 3 : 2), rows);
    TANDEM_RETURN_IF_ERROR(attention(static_cast<int>(i), floats(q_), floats(k_), own_v ? floats(v_) : floats(k_),
                                     weights, floats(attended_)));
    quantise(floats(attended_), layer.q.outputs, rows);
    multiply(std::array{Product{&layer.o, normed}}, rows);
    add(weights.post_attention_norm, 1.0f);
    norm(weights.pre_feedforward_norm, normed);
    quantise(normed, size, rows);
    multiply_gated(layer, rows);
    quantise(floats(gate_), layer.gate.outputs, rows);
    multiply(std::array{Product{&layer.down, normed}}, rows);
    add(weights.post_feedforward_norm, weights.scalar);
  }
  norm(table_.norm, hidden);
  return {};
}

void NativeStep::head(const float* hidden, int rows, float* logits) {
  quantise(hidden, spec_.hidden_size, rows);
  multiply(std::array{Product{&embed_, logits}}, rows);
  if (!spec_.final_softcap) return;
  constexpr int64_t kPieces = 16;
  const int64_t count = int64_t{rows} * spec_.vocab_size;
  pool_->run(kPieces, [&](int64_t piece) {
    const int64_t first = count * piece / kPieces, last = count * (piece + 1) / kPieces;
    soft_cap(static_cast<float>(*spec_.final_softcap), last - first, logits + first);
  });
}

}  // namespace tandem
