// Walks the flatbuffer of a .tflite model with the bounded reader.
#include "bundle/gpu_check.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string_view>

#include "bundle/flatbuffer.h"

namespace tandem {
namespace {

constexpr uint64_t kMaxVisits = uint64_t{1} << 26;
constexpr std::size_t kMaxFlatbufferBytes = std::numeric_limits<int32_t>::max();

// Slots of the TFLite schema.
namespace slot {
constexpr int kOperatorCodes = 1, kSubgraphs = 2, kSignatures = 7;        // Model
constexpr int kTensors = 0, kOperators = 3;                               // SubGraph
constexpr int kShape = 0, kType = 1, kTensorName = 3, kQuantization = 4;  // Tensor
constexpr int kDetailsType = 4;                                           // QuantizationParameters
constexpr int kDeprecatedCode = 0, kBuiltinCode = 3;                      // OperatorCode
constexpr int kOpcodeIndex = 0, kOpInputs = 1;                            // Operator
constexpr int kSignatureKey = 2, kSubgraphIndex = 4;                      // SignatureDef
}  // namespace slot

constexpr uint8_t kBlockwise = 2;  // of the union QuantizationDetails
constexpr int32_t kEmbeddingLookup = 7, kFullyConnected = 9;
constexpr uint32_t kWeights = 1;  // input of either
// TensorType; of weights, those that were tried on the accelerator.
constexpr int8_t kFloat32 = 0, kInt8 = 9, kInt4 = 17;
// The accelerator's own bound; a constant of more dimensions is a fatal check there.
constexpr uint32_t kMaxRank = 4;

// The builtin operators of Tandem's portable graphs and drafters, each tried on the accelerator of ai-edge-litert 2.3:
// ADD, CONCATENATION, DEQUANTIZE, EMBEDDING_LOOKUP, FLOOR, FULLY_CONNECTED, MUL, RESHAPE, SOFTMAX, TANH, GATHER,
// TRANSPOSE, MEAN, SUB, TOPK_V2, CAST, MINIMUM, NEG, GREATER_EQUAL, SLICE, SIN, RSQRT, REDUCE_MIN, COS, SCATTER_ND,
// BATCH_MATMUL, GELU, DYNAMIC_UPDATE_SLICE.
constexpr int32_t kTried[] = {0,  2,  6,  7,  8,  9,  18, 22, 25, 28,  36,  39,  40,  41,
                              48, 53, 57, 59, 62, 65, 66, 76, 89, 108, 122, 126, 150, 151};

class Walk {
 public:
  Walk(std::span<const std::byte> model, GpuConstants constants)
      : reader_(model.first(std::min(model.size(), kMaxFlatbufferBytes)), kMaxVisits), constants_(constants) {}

  // After run(): an operator looks up embeddings in float32.
  bool float_lookup() const { return float_lookup_; }

  std::string run() {
    const FlatTable root = reader_.root();
    codes_ = root.vector(slot::kOperatorCodes, 4);
    const FlatVector graphs = root.vector(slot::kSubgraphs, 4);
    const FlatVector signatures = root.vector(slot::kSignatures, 4);
    for (uint32_t i = 0; i < signatures.size() && clear(); ++i) {
      const FlatTable signature = signatures.table(i);
      if (signature.string(slot::kSignatureKey).starts_with("tandem_")) continue;
      const uint32_t graph = signature.scalar<uint32_t>(slot::kSubgraphIndex);
      if (graph < graphs.size()) subgraph(graphs.table(graph));
    }
    return reader_.ok() ? obstacle_ : "the model is damaged (" + reader_.error() + ")";
  }

 private:
  bool clear() const { return reader_.ok() && obstacle_.empty(); }

  void subgraph(const FlatTable& graph) {
    const FlatVector tensors = graph.vector(slot::kTensors, 4), operators = graph.vector(slot::kOperators, 4);
    for (uint32_t i = 0; i < tensors.size() && clear(); ++i) {
      const FlatTable tensor = tensors.table(i);
      const std::string name(tensor.string(slot::kTensorName));
      const FlatTable quantization = tensor.table(slot::kQuantization);
      const bool blocks = quantization && quantization.scalar<uint8_t>(slot::kDetailsType) == kBlockwise;
      if (blocks && (constants_ == GpuConstants::kCopied || tensor.scalar<int8_t>(slot::kType) != kInt4)) {
        obstacle_ = "weights quantised in blocks ('" + name + "') crash LiteRT's GPU accelerator";
      } else if (tensor.vector(slot::kShape, 4).size() > kMaxRank) {
        obstacle_ = "tensor '" + name + "' has more than " + std::to_string(kMaxRank) + " dimensions";
      }
    }
    for (uint32_t i = 0; i < operators.size() && clear(); ++i) {
      const FlatTable op = operators.table(i);
      const uint32_t index = op.scalar<uint32_t>(slot::kOpcodeIndex);
      if (index >= codes_.size()) continue;
      const FlatTable code = codes_.table(index);
      // The wider field came later; the older one holds what fits into it.
      const int32_t builtin = std::max(code.scalar<int32_t>(slot::kBuiltinCode),
                                       static_cast<int32_t>(code.scalar<int8_t>(slot::kDeprecatedCode)));
      if (std::find(std::begin(kTried), std::end(kTried), builtin) == std::end(kTried)) {
        obstacle_ = "operator " + std::to_string(builtin) + " was not tried on LiteRT's GPU accelerator";
      } else if (builtin == kFullyConnected || builtin == kEmbeddingLookup) {
        weights(tensors, op.vector(slot::kOpInputs, 4), builtin == kEmbeddingLookup);
      }
    }
  }

  void weights(const FlatVector& tensors, const FlatVector& inputs, bool lookup) {
    const int32_t at = inputs.size() > kWeights ? inputs.scalar<int32_t>(kWeights) : -1;
    if (at < 0 || static_cast<uint32_t>(at) >= tensors.size()) return;
    const FlatTable tensor = tensors.table(static_cast<uint32_t>(at));
    const int8_t type = tensor.scalar<int8_t>(slot::kType);
    float_lookup_ = float_lookup_ || (lookup && type == kFloat32);
    if (type == kFloat32 || type == kInt8 || type == kInt4) return;
    obstacle_ = "weights '" + std::string(tensor.string(slot::kTensorName)) + "' have a type (" + std::to_string(type) +
                ") that was not tried on LiteRT's GPU accelerator";
  }

  FlatReader reader_;
  GpuConstants constants_;
  FlatVector codes_;
  std::string obstacle_;
  bool float_lookup_ = false;
};

}  // namespace

std::string gpu_obstacle(std::span<const std::byte> model, GpuConstants constants) {
  return Walk(model, constants).run();
}

bool gpu_can_share(std::span<const std::byte> model) {
  Walk walk(model, GpuConstants::kShared);
  return walk.run().empty() && !walk.float_lookup();
}

}  // namespace tandem
