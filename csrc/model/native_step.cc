#include "model/native_step.h"

#include <algorithm>
#include <array>
#include <string>

#include "base/cpu_features.h"
#include "base/huge_pages.h"

namespace tandem {
namespace {

constexpr int64_t kVector = 64;           // floats that a norm takes at a time; outputs of the widest group
constexpr int64_t kPieceBytes = 1 << 19;  // of a matrix that a thread takes at a time, at most: half of an L2 cache
constexpr int64_t kLeastPiece = 1 << 15;
constexpr int64_t kThreadPieces = 2;  // pieces for every thread, so that none waits long for another
constexpr int64_t kSmall = 1 << 16;   // bytes below which waking another thread costs more than it gives
constexpr int kRowShare = 48;         // rows of a thread's share where the pieces alone are too few,
constexpr int kTiledShare = 128;      // where blocks of rows are as large as AMX has them
constexpr int64_t kEnoughShares = 32;
constexpr int64_t kManyFloats = 1 << 20;  // of the rows of a long prompt, from which on a huge page is no waste
constexpr int64_t kUpFloats = 4096;  // of the up projection, which lives only until it is multiplied with the gate:
constexpr int64_t kMostUpFloats = kMostLinearBlock * kVector;  // where a vector of every row is more

bool fits(const MatrixPlace& place) {
  if (place.bits != 4 && place.bits != 8) return false;
  if (place.block != 0 && (place.bits != 4 || place.block % 32 != 0 || place.inputs % place.block != 0)) return false;
  return place.inputs % kVector == 0 && place.outputs % kVector == 0;
}

float* floats(const Mapping& memory) { return static_cast<float*>(memory.get()); }

}  // namespace

bool NativeStep::suits(const WeightTable& table) {
  const std::vector<const MatrixPlace*> all = matrices_of(table);
  return linear_available() && std::all_of(all.begin(), all.end(), [](const MatrixPlace* one) { return fits(*one); });
}

Result<std::unique_ptr<NativeStep>> NativeStep::create(const WeightTable& table, const ModelSpec& spec,
                                                       PackedWeights packed, ThreadPool& pool) {
  std::unique_ptr<NativeStep> step(new NativeStep);
  step->table_ = table;
  step->spec_ = spec;
  step->packed_ = std::move(packed);
  step->pool_ = &pool;

  TANDEM_ASSIGN_OR_RETURN(const Isa isa, select_isa());
  const bool tiles = isa == Isa::kAvx512Amx;
  bool sound = true;
  const auto find = [&](const MatrixPlace& place) {
    PackedMatrix matrix = step->packed_.find(place.buffer);
    sound = sound && matrix.data != nullptr && static_cast<uint64_t>(matrix.inputs) == place.inputs &&
            static_cast<uint64_t>(matrix.outputs) == place.outputs;
    matrix.tiles = tiles && !matrix.byte_scales;  // packed under another TANDEM_ISA, it stays with VNNI
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
    return Status(Code::kBackend, "the packed weights are not this model's; empty the cache folder");
  }
  widest = std::max({widest, int64_t{spec.intermediate_size}, widest_q});

  const auto rows = [](int64_t size) {
    auto memory = reserve(static_cast<std::size_t>(kMostRows * size) * sizeof(float), "a step");
    if (memory.ok() && kFillRows * size >= kManyFloats) {
      prefer_huge_pages(memory.value().get(), memory.value().get_deleter().bytes);
    }
    return memory;
  };
  TANDEM_ASSIGN_OR_RETURN(step->residual_, rows(spec.hidden_size));
  TANDEM_ASSIGN_OR_RETURN(step->normed_, rows(spec.hidden_size));
  TANDEM_ASSIGN_OR_RETURN(step->q_, rows(widest_q));
  TANDEM_ASSIGN_OR_RETURN(step->k_, rows(widest_kv));
  TANDEM_ASSIGN_OR_RETURN(step->v_, rows(widest_kv));
  TANDEM_ASSIGN_OR_RETURN(step->attended_, rows(widest_q));
  TANDEM_ASSIGN_OR_RETURN(step->gate_, rows(spec.intermediate_size));
  TANDEM_ASSIGN_OR_RETURN(step->values_,
                          reserve(static_cast<std::size_t>((kMostRows + kLinearTile) * widest), "a step"));
  step->scales_.resize(kMostRows);
  step->zeros_.resize(kMostRows);
  step->bytes_ = {static_cast<uint8_t*>(step->values_.get()), widest, step->scales_.data(), step->zeros_.data()};
  return step;
}

void NativeStep::each_row(int rows, const std::function<void(int row)>& work) {
  if (rows <= kStepRows) {
    for (int row = 0; row < rows; ++row) work(row);
    return;
  }
  const int blocks = (rows + kStepRows - 1) / kStepRows;
  pool_->run(blocks, [&](int64_t block) {
    const int first = static_cast<int>(block) * kStepRows, last = std::min(first + kStepRows, rows);
    for (int row = first; row < last; ++row) work(row);
  });
}

void NativeStep::quantise(const float* in, int64_t size, int rows) {
  set_row_size(size);
  each_row(rows, [&](int row) { quantise_row(in + row * size, size, row, bytes_); });
}

void NativeStep::share(int64_t pieces, int64_t bytes, int rows, int block,
                       const std::function<void(int64_t piece, int first, int count)>& work) {
  if (rows <= kStepRows && bytes < kSmall) {
    for (int64_t piece = 0; piece < pieces; ++piece) work(piece, 0, rows);
    return;
  }
  // Shares of one piece follow each other: its weights come from memory once.
  const int least = block > kRowShare ? kTiledShare : kRowShare;
  const int size = rows > kStepRows && pieces < kEnoughShares ? least : rows;
  const int64_t parts = (rows + size - 1) / size;
  pool_->run(pieces * parts, [&](int64_t i) {
    const int first = static_cast<int>(i % parts) * size;
    work(i / parts, first, std::min(size, rows - first));
  });
}

int64_t NativeStep::piece_bytes(int64_t bytes) const {
  return std::clamp(bytes / (kThreadPieces * pool_->threads()), kLeastPiece, kPieceBytes);
}

void NativeStep::multiply(std::span<const Product> products, int rows) {
  // Pieces of about equal bytes, over all the products.
  int64_t bytes = 0, total = 0;
  int widest = 0;
  for (const Product& product : products) {
    bytes += product.matrix->bytes();
    widest = std::max(widest, linear_block(*product.matrix));
  }
  const int64_t piece_size = piece_bytes(bytes);
  std::array<int64_t, 4> pieces{};
  for (std::size_t i = 0; i < products.size(); ++i) {
    pieces[i] = std::clamp<int64_t>(products[i].matrix->bytes() / piece_size, 1, products[i].matrix->groups());
    total += pieces[i];
  }
  share(total, bytes, rows, widest, [&](int64_t piece, int start, int count) {
    std::size_t i = 0;
    while (piece >= pieces[i]) piece -= pieces[i++];
    const auto& [matrix, out] = products[i];
    const int64_t groups = matrix->groups(), first = groups * piece / pieces[i],
                  last = groups * (piece + 1) / pieces[i];
    const int most = linear_block(*matrix);
    for (int row = start; row < start + count; row += most) {
      const int block = std::min(most, start + count - row);
      linear(*matrix, bytes_.from(row), block, first, last, out + row * matrix->outputs + first * matrix->group(),
             matrix->outputs);
    }
  });
}

void NativeStep::multiply_gated(const Matrices& layer, int rows) {
  // In outputs and not in groups: the two matrices may differ in their bits. kVector is a multiple of either group.
  const int64_t width = layer.gate.outputs, vectors = width / kVector;
  const int64_t bytes = layer.gate.bytes() + layer.up.bytes();
  const int64_t pieces = std::clamp<int64_t>(bytes / piece_bytes(bytes), 1, vectors);
  const int widest = std::max(linear_block(layer.gate), linear_block(layer.up));
  share(pieces, bytes, rows, widest, [&](int64_t piece, int start, int count) {
    const int64_t end = vectors * (piece + 1) / pieces * kVector;
    for (int row = start; row < start + count; row += widest) {
      const int block = std::min(widest, start + count - row);
      const int64_t most = std::max(kUpFloats / block / kVector * kVector, kVector);
      for (int64_t first = vectors * piece / pieces * kVector; first < end; first += most) {
        const int64_t last = std::min(first + most, end), outputs = last - first;
        const auto multiply_part = [&](const PackedMatrix& matrix, float* out, int64_t stride) {
          linear(matrix, bytes_.from(row), block, first / matrix.group(), last / matrix.group(), out, stride);
        };
        float up[kMostUpFloats];
        float* gate = floats(gate_) + row * width + first;
        multiply_part(layer.gate, gate, width);
        multiply_part(layer.up, up, outputs);
        for (int r = 0; r < block; ++r) gated_gelu(up + r * outputs, outputs, gate + r * width);
      }
    }
  });
}

Status NativeStep::run_layer(std::size_t index, int rows, const Attention& attention, bool k_v_only) {
  const Matrices& layer = layers_[index];
  const LayerWeights& weights = table_.layers[index];
  const int64_t size = spec_.hidden_size;
  const auto epsilon = static_cast<float>(spec_.rms_norm_eps);
  float *h = floats(residual_), *normed = floats(normed_);

  const bool own_v = layer.v.data != nullptr;
  std::array<Product, 3> products;
  std::size_t count = 0;
  if (!k_v_only) products[count++] = {&layer.q, floats(q_)};
  products[count++] = {&layer.k, floats(k_)};
  if (own_v) products[count++] = {&layer.v, floats(v_)};
  multiply(std::span(products).first(count), rows);
  TANDEM_RETURN_IF_ERROR(attention(static_cast<int>(index), floats(q_), floats(k_), own_v ? floats(v_) : floats(k_),
                                   weights, floats(attended_)));
  if (k_v_only) return {};

  quantise(floats(attended_), layer.q.outputs, rows);
  multiply(std::array{Product{&layer.o, normed}}, rows);
  set_row_size(size);
  each_row(rows, [&](int row) {
    float *one = normed + row * size, *sum = h + row * size;
    add_normed(one, weights.post_attention_norm, epsilon, 1.0f, size, sum);
    rms_norm(sum, weights.pre_feedforward_norm, epsilon, size, one);
    quantise_row(one, size, row, bytes_);
  });
  multiply_gated(layer, rows);
  quantise(floats(gate_), layer.gate.outputs, rows);
  multiply(std::array{Product{&layer.down, normed}}, rows);
  set_row_size(size);
  const float* next = index + 1 < layers_.size() ? table_.layers[index + 1].input_norm : nullptr;
  each_row(rows, [&](int row) {
    float *one = normed + row * size, *sum = h + row * size;
    add_normed(one, weights.post_feedforward_norm, epsilon, weights.scalar, size, sum);
    if (next == nullptr) return;
    rms_norm(sum, next, epsilon, size, one);
    quantise_row(one, size, row, bytes_);
  });
  return {};
}

void NativeStep::begin(const float* embeddings, int rows) {
  const int64_t size = spec_.hidden_size;
  set_row_size(size);
  each_row(rows, [&](int row) {
    float* one = floats(normed_) + row * size;
    std::copy_n(embeddings + row * size, size, floats(residual_) + row * size);
    rms_norm(embeddings + row * size, table_.layers[0].input_norm, static_cast<float>(spec_.rms_norm_eps), size, one);
    quantise_row(one, size, row, bytes_);
  });
}

Status NativeStep::run(const float* embeddings, int rows, const Attention& attention, float* hidden) {
  begin(embeddings, rows);
  for (std::size_t i = 0; i < layers_.size(); ++i) TANDEM_RETURN_IF_ERROR(run_layer(i, rows, attention, false));
  const int64_t size = spec_.hidden_size;
  each_row(rows, [&](int row) {
    rms_norm(floats(residual_) + row * size, table_.norm, static_cast<float>(spec_.rms_norm_eps), size,
             hidden + row * size);
  });
  return {};
}

Status NativeStep::fill(const float* embeddings, int rows, const Attention& attention,
                        const std::atomic<bool>& cancelled) {
  begin(embeddings, rows);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (cancelled) return {Code::kCancelled, "cancelled"};
    TANDEM_RETURN_IF_ERROR(run_layer(i, rows, attention, i + 1 == layers_.size()));
  }
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
