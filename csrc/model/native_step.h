// The layers of converter/graph.py without a graph, over our own packed weights: products that cost the rows that there
// are (kernels/linear.h), and everything between two products in one pass over rows that are still in the cache of the
// core. Used where the CPU and the bundle's weights allow it; else the graphs run. Depends on kernels, bundle.
#pragma once

#include <atomic>
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
  static constexpr int kStepRows = 16;    // most rows of a step with logits
  static constexpr int kFillRows = 512;   // of a prompt at a time: the weights are read once for these
  static constexpr int kMostRows = 2048;  // of a prompt that cannot be cut: an image

  // Whether this CPU has the kernels and they can multiply all these matrices. Reads no weights.
  static bool suits(const WeightTable& table);

  // kBackend when `packed` lacks a matrix of the table. `pool` must outlive the step.
  static Result<std::unique_ptr<NativeStep>> create(const WeightTable& table, const ModelSpec& spec,
                                                    PackedWeights packed, ThreadPool& pool);

  // Raw projections q [rows, heads * D], k, v [rows, kv_heads * D] -> out [rows, heads * D].
  using Attention =
      std::function<Status(int layer, const float* q, const float* k, const float* v, const LayerWeights&, float* out)>;

  // embeddings [rows, hidden_size] -> hidden [rows, hidden_size] after the final norm; rows <= kMostRows.
  Status run(const float* embeddings, int rows, const Attention& attention, float* hidden);

  // The same for the cache's sake: ends with the attention of the last layer, which is given k and v but no q and whose
  // output is not used. kCancelled between layers once `cancelled` is true.
  Status fill(const float* embeddings, int rows, const Attention& attention, const std::atomic<bool>& cancelled);

  // hidden [rows, hidden_size] after the final norm -> logits [rows, vocab_size]; rows <= kStepRows.
  void head(const float* hidden, int rows, float* logits);

 private:
  struct Matrices {
    PackedMatrix q, k, v, o, gate, up, down;
  };
  // A product that shares its input with others, into its own rows.
  struct Product {
    const PackedMatrix* matrix = nullptr;
    float* out = nullptr;
  };

  NativeStep() = default;
  // The residual and the first layer's quantised input.
  void begin(const float* embeddings, int rows);
  // A layer from the normed and quantised input to the residual. `k_v_only`: as fill() wants of the last one.
  Status run_layer(std::size_t index, int rows, const Attention& attention, bool k_v_only);
  // Calls work(row) for all rows, on several threads when there are many.
  void each_row(int rows, const std::function<void(int row)>& work);
  void quantise(const float* in, int64_t size, int rows);
  void set_row_size(int64_t size) { bytes_.stride = size; }
  // Calls work(piece, first row, rows) for about equal shares of a product of `bytes` of weights in `pieces`, with
  // linear_block() `block`.
  void share(int64_t pieces, int64_t bytes, int rows, int block,
             const std::function<void(int64_t piece, int first, int count)>& work);
  // Of the pieces that products of `bytes` of weights are cut into.
  int64_t piece_bytes(int64_t bytes) const;
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
  Mapping residual_, normed_, q_, k_, v_, attended_, gate_;  // [kMostRows][...]; memory is taken as rows come
};

}  // namespace tandem
