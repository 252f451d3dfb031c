// Steps of a few tokens (decode, verify) without a graph: the layers of converter/graph.py over XNNPACK's own packed
// weights, with kernels that cost the rows that there are (kernels/linear.h). Used where the CPU and the bundle's
// weights allow it; else the graphs run. Depends on kernels, bundle.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/mapping.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "kernels/linear.h"
#include "model/packed_weights.h"
#include "model/weight_table.h"

namespace tandem {

class NativeStep {
 public:
  static constexpr int kMaxRows = 16;

  // Whether this CPU has the kernels and they can multiply all these matrices. Reads no weights.
  static bool suits(const WeightTable& table, const ModelSpec& spec);

  // `model`: the section that the table's offsets count from. `packed` is checked against it: kBackend when it holds
  // something else. Everything given must outlive the step.
  static Result<std::unique_ptr<NativeStep>> create(const WeightTable& table, const ModelSpec& spec,
                                                    std::span<const std::byte> model, PackedWeights packed,
                                                    ThreadPool& pool);

  // Raw projections q [rows, heads * D], k, v [rows, kv_heads * D] -> out [rows, heads * D].
  using Attention =
      std::function<Status(int layer, const float* q, const float* k, const float* v, const LayerWeights&, float* out)>;

  // embeddings [rows, hidden_size] -> hidden [rows, hidden_size] after the final norm; rows <= kMaxRows.
  Status run(const float* embeddings, int rows, const Attention& attention, float* hidden);

  // hidden [rows, hidden_size] after the final norm -> logits [rows, vocab_size].
  void head(const float* hidden, int rows, float* logits);

 private:
  struct Matrices {
    PackedMatrix q, k, v, o, gate, up, down;
  };
  // A product that shares its input with others, into its own rows.
  struct Product {
    const PackedMatrix* matrix;
    float* out;
  };

  NativeStep() = default;
  void quantise(const float* in, int64_t size, int rows);
  // All products of the quantised rows, spread over the threads.
  void multiply(std::span<const Product> products, int rows);
  // gate = gelu(gate) * up, from the quantised rows.
  void multiply_gated(const Matrices& layer, int rows);

  WeightTable table_;
  ModelSpec spec_;
  PackedWeights packed_;
  PackedMatrix embed_;
  std::vector<Matrices> layers_;
  ThreadPool* pool_ = nullptr;

  ByteRows bytes_;  // the quantised input of the products in progress
  std::vector<float> scales_;
  std::vector<int32_t> zeros_;
  Mapping values_;
  Mapping residual_, normed_, q_, k_, v_, attended_, gate_, up_;  // [kMaxRows][...]
};

}  // namespace tandem
