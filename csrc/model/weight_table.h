// The bundle's section `tandem_weights` (converter/weight_table.py): where each matrix lies in the model's section, and
// the small vectors as the graphs have them. What steps without a graph are made of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "bundle/manifest.h"

namespace tandem {

inline constexpr const char* kWeightTable = "tandem_weights";

struct MatrixPlace {
  uint64_t buffer = 0;  // index in the model
  uint64_t bits = 0;    // 4, 8, 16 or 32
  uint64_t block = 0;   // inputs that share a scale; 0: all of an output
  uint64_t outputs = 0, inputs = 0;
  uint64_t offset = 0, bytes = 0;  // in the model's section
};

struct LayerWeights {
  MatrixPlace q, k, v, o, gate, up, down;  // v: empty where it is k
  const float* input_norm = nullptr;       // factors, as long as what they multiply
  const float* post_attention_norm = nullptr;
  const float* pre_feedforward_norm = nullptr;
  const float* post_feedforward_norm = nullptr;
  const float* q_norm = nullptr;  // the attention scale is part of it
  const float* k_norm = nullptr;
  float scalar = 1.0f;
};

struct WeightTable {
  MatrixPlace embed;
  const float* norm = nullptr;
  std::vector<LayerWeights> layers;
};

// All matrices, the table of embeddings first; into `table`, which must outlive the list.
std::vector<const MatrixPlace*> matrices_of(const WeightTable& table);

// The pointers go into `section`. kBundle when it does not fit `spec` or `model_bytes`, the size of the model's
// section.
Result<WeightTable> read_weight_table(std::span<const std::byte> section, const ModelSpec& spec, uint64_t model_bytes);

}  // namespace tandem
