#include "model/weight_table.h"

#include <cstring>
#include <string>

namespace tandem {
namespace {

constexpr char kMagic[] = "TANDEMW1";
constexpr uint64_t kAlignment = 64;

// Takes the section apart in its order; remembers the first fault.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, uint64_t model_bytes) : bytes_(bytes), model_bytes_(model_bytes) {}

  uint64_t word() {
    uint64_t value = 0;
    if (const std::byte* at = take(8)) std::memcpy(&value, at, 8);
    return value;
  }

  MatrixPlace matrix(uint64_t outputs, uint64_t inputs) {
    MatrixPlace place;
    for (uint64_t* field :
         {&place.buffer, &place.bits, &place.block, &place.outputs, &place.inputs, &place.offset, &place.bytes}) {
      *field = word();
    }
    const bool sound = place.outputs == outputs && place.inputs == inputs && place.bits <= 32 &&
                       place.bytes == outputs * inputs * place.bits / 8 && place.offset <= model_bytes_ &&
                       place.bytes <= model_bytes_ - place.offset;
    ok_ = ok_ && sound;
    return place;
  }

  const float* vector(uint64_t count) {
    at_ = (at_ + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<const float*>(take(count * sizeof(float)));
  }

  bool ok() const { return ok_; }

 private:
  const std::byte* take(uint64_t count) {
    if (!ok_ || at_ > bytes_.size() || count > bytes_.size() - at_) {
      ok_ = false;
      return nullptr;
    }
    at_ += count;
    return bytes_.data() + at_ - count;
  }

  std::span<const std::byte> bytes_;
  uint64_t model_bytes_;
  uint64_t at_ = 0;
  bool ok_ = true;
};

}  // namespace

std::vector<const MatrixPlace*> matrices_of(const WeightTable& table) {
  std::vector<const MatrixPlace*> all{&table.embed};
  for (const LayerWeights& layer : table.layers) {
    for (const MatrixPlace* place : {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      if (place->bytes > 0) all.push_back(place);  // v may be k
    }
  }
  return all;
}

Result<WeightTable> read_weight_table(std::span<const std::byte> section, const ModelSpec& spec, uint64_t model_bytes) {
  Cursor cursor(section, model_bytes);
  uint64_t magic = 0;
  std::memcpy(&magic, kMagic, sizeof magic);
  const bool known = cursor.word() == magic;
  WeightTable table;
  const auto hidden = static_cast<uint64_t>(spec.hidden_size), inner = static_cast<uint64_t>(spec.intermediate_size);
  table.embed = cursor.matrix(static_cast<uint64_t>(spec.vocab_size), hidden);
  for (const LayerSpec& layer : spec.layers) {
    const auto q = static_cast<uint64_t>(spec.num_heads) * static_cast<uint64_t>(layer.head_dim);
    const auto kv = static_cast<uint64_t>(layer.kv_heads) * static_cast<uint64_t>(layer.head_dim);
    LayerWeights weights;
    weights.q = cursor.matrix(q, hidden);
    weights.k = cursor.matrix(kv, hidden);
    if (!layer.k_eq_v) weights.v = cursor.matrix(kv, hidden);
    weights.o = cursor.matrix(hidden, q);
    weights.gate = cursor.matrix(inner, hidden);
    weights.up = cursor.matrix(inner, hidden);
    weights.down = cursor.matrix(hidden, inner);
    table.layers.push_back(weights);
  }
  table.norm = cursor.vector(hidden);
  for (std::size_t i = 0; i < table.layers.size(); ++i) {
    LayerWeights& weights = table.layers[i];
    for (const float** norm : {&weights.input_norm, &weights.post_attention_norm, &weights.pre_feedforward_norm,
                               &weights.post_feedforward_norm}) {
      *norm = cursor.vector(hidden);
    }
    weights.q_norm = cursor.vector(static_cast<uint64_t>(spec.layers[i].head_dim));
    weights.k_norm = cursor.vector(static_cast<uint64_t>(spec.layers[i].head_dim));
    if (const float* scalar = spec.layer_scalar ? cursor.vector(1) : nullptr) weights.scalar = *scalar;
  }
  if (!known || !cursor.ok()) {
    return Status(Code::kBundle, "section '" + std::string(kWeightTable) +
                                     "' does not fit the model that the manifest describes; convert the model again");
  }
  return table;
}

}  // namespace tandem
