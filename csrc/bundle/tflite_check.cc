// Walks the flatbuffer of a .tflite model with the bounded reader.
#include "bundle/tflite_check.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "bundle/flatbuffer.h"

namespace tandem {
namespace {

constexpr uint32_t kSchemaVersion = 3;
constexpr uint64_t kMaxVisits = uint64_t{1} << 26;  // a 12B model with eight signatures needs about a million
constexpr uint64_t kMaxFlatbufferBytes = std::numeric_limits<int32_t>::max();
constexpr uint32_t kMaxRank = 16;

// Slots of the TFLite schema.
namespace slot {
constexpr int kVersion = 0, kOperatorCodes = 1, kSubgraphs = 2, kBuffers = 4, kSignatures = 7;        // Model
constexpr int kTensors = 0, kGraphInputs = 1, kGraphOutputs = 2, kOperators = 3;                      // SubGraph
constexpr int kShape = 0, kType = 1, kBuffer = 2, kTensorName = 3, kQuantization = 4, kSparsity = 6;  // Tensor
constexpr int kExternalBuffer = 10;                                                                   // Tensor
constexpr int kScale = 2, kZeroPoint = 3, kDetailsType = 4, kDetails = 5;                             // Quantization...
constexpr int kBlockScales = 0;                                                                       // Blockwise...
constexpr int kCustomCode = 1;                                                                        // OperatorCode
constexpr int kOpcodeIndex = 0, kOpInputs = 1, kOpOutputs = 2, kCustomOptions = 5;                    // Operator
constexpr int kData = 0, kOffset = 1, kSize = 2;                                                      // Buffer
constexpr int kSignatureInputs = 0, kSignatureOutputs = 1, kSignatureKey = 2, kSubgraphIndex = 4;     // SignatureDef
constexpr int kMapName = 0, kMapTensor = 1;                                                           // TensorMap
}  // namespace slot

constexpr uint8_t kBlockwise = 2;  // of the union QuantizationDetails

// Bits per element by TensorType; 0 where the size is not fixed (strings, resources, variants).
constexpr uint8_t kTypeBits[] = {32, 16, 32, 8, 64, 0, 8, 16, 64, 8, 64, 128, 64, 0, 0, 32, 16, 4, 16, 2, 4, 8, 8};

class Checker {
 public:
  explicit Checker(std::span<const std::byte> model)
      : model_(model), reader_(model.first(std::min<size_t>(model.size(), kMaxFlatbufferBytes)), kMaxVisits) {}

  std::string check() {
    if (model_.size() < 8 || std::memcmp(model_.data() + 4, "TFL3", 4) != 0)
      return "it is not a TFLite model (no TFL3)";
    const FlatTable root = reader_.root();
    if (root.scalar<uint32_t>(slot::kVersion) != kSchemaVersion) {
      reader_.fail(root.position(), "its schema version is not 3");
    }
    buffers(root.vector(slot::kBuffers, 4));
    const FlatVector codes = root.vector(slot::kOperatorCodes, 4);
    operator_codes_ = codes.size();
    for (uint32_t i = 0; i < codes.size() && reader_.ok(); ++i) codes.table(i).string(slot::kCustomCode);
    const FlatVector graphs = root.vector(slot::kSubgraphs, 4);
    if (graphs.size() == 0) reader_.fail(root.position(), "it has no subgraphs");
    for (uint32_t i = 0; i < graphs.size() && reader_.ok(); ++i) subgraph(graphs.table(i));
    signatures(root.vector(slot::kSignatures, 4));
    return reader_.error();
  }

 private:
  void buffers(const FlatVector& list) {
    for (uint32_t i = 0; i < list.size() && reader_.ok(); ++i) {
      const FlatTable buffer = list.table(i);
      const FlatVector data = buffer.vector(slot::kData, 1);
      const uint64_t offset = buffer.scalar<uint64_t>(slot::kOffset);
      const uint64_t size = buffer.scalar<uint64_t>(slot::kSize);
      // Offsets 0 and 1 are placeholders that mean "inline".
      const bool external = offset > 1;
      if (external && (offset > model_.size() || size > model_.size() - offset)) {
        reader_.fail(buffer.position(), "buffer " + std::to_string(i) + " lies outside the section (offset " +
                                            std::to_string(offset) + ", " + std::to_string(size) + " bytes of " +
                                            std::to_string(model_.size()) + ")");
      }
      buffer_bytes_.push_back(external ? size : data.size());
    }
  }

  void subgraph(const FlatTable& graph) {
    const FlatVector tensors = graph.vector(slot::kTensors, 4);
    tensor_counts_.push_back(tensors.size());
    for (uint32_t i = 0; i < tensors.size() && reader_.ok(); ++i) tensor(tensors.table(i), tensors.size());
    indices(graph.vector(slot::kGraphInputs, 4), tensors.size(), 0);
    indices(graph.vector(slot::kGraphOutputs, 4), tensors.size(), 0);
    const FlatVector operators = graph.vector(slot::kOperators, 4);
    for (uint32_t i = 0; i < operators.size() && reader_.ok(); ++i) {
      const FlatTable op = operators.table(i);
      if (op.scalar<uint32_t>(slot::kOpcodeIndex) >= operator_codes_) {
        reader_.fail(op.position(), "an operator has an opcode index that does not exist");
      }
      indices(op.vector(slot::kOpInputs, 4), tensors.size(), -1);  // -1 = optional input left out
      indices(op.vector(slot::kOpOutputs, 4), tensors.size(), 0);
      op.vector(slot::kCustomOptions, 1);
    }
  }

  void tensor(const FlatTable& tensor, uint32_t tensor_count) {
    tensor.string(slot::kTensorName);
    const uint32_t buffer = tensor.scalar<uint32_t>(slot::kBuffer);
    const uint8_t type = static_cast<uint8_t>(tensor.scalar<int8_t>(slot::kType));
    const FlatVector shape = tensor.vector(slot::kShape, 4);
    if (!reader_.ok()) return;
    if (buffer >= buffer_bytes_.size()) return reader_.fail(tensor.position(), "a tensor's buffer does not exist");
    if (type >= std::size(kTypeBits)) return reader_.fail(tensor.position(), "a tensor has an unknown type");
    if (shape.size() > kMaxRank) return reader_.fail(tensor.position(), "a tensor has too many dimensions");
    quantization(tensor.table(slot::kQuantization), tensor_count);

    uint64_t elements = 1;
    for (uint32_t i = 0; i < shape.size() && reader_.ok(); ++i) {
      const int32_t dim = shape.scalar<int32_t>(i);
      if (dim < 0) return reader_.fail(tensor.position(), "a tensor has a negative dimension");
      elements *= static_cast<uint64_t>(dim);
      if (elements > model_.size() * 8 && buffer_bytes_[buffer] != 0) {
        return reader_.fail(tensor.position(), "a constant is larger than the section");
      }
      elements = std::min<uint64_t>(elements, uint64_t{1} << 32);  // of no interest for what is not constant
    }
    const bool is_plain_constant = buffer_bytes_[buffer] != 0 && kTypeBits[type] != 0 && !tensor.has(slot::kSparsity) &&
                                   !tensor.has(slot::kExternalBuffer);
    if (is_plain_constant && (elements * kTypeBits[type] + 7) / 8 > buffer_bytes_[buffer]) {
      reader_.fail(tensor.position(), "a constant needs more bytes than its buffer has");
    }
  }

  void quantization(const FlatTable& table, uint32_t tensor_count) {
    if (!table) return;
    table.vector(slot::kScale, sizeof(float));
    table.vector(slot::kZeroPoint, sizeof(int64_t));
    const FlatTable details = table.table(slot::kDetails);
    if (table.scalar<uint8_t>(slot::kDetailsType) != kBlockwise) return;
    const int32_t scales = details.scalar<int32_t>(slot::kBlockScales);
    if (scales < 0 || static_cast<uint32_t>(scales) >= tensor_count) {
      reader_.fail(table.position(), "block scales refer to a tensor that does not exist");
    }
  }

  void indices(const FlatVector& list, uint32_t count, int32_t lowest) {
    for (uint32_t i = 0; i < list.size() && reader_.ok(); ++i) {
      const int32_t index = list.scalar<int32_t>(i);
      if (index < lowest || index >= static_cast<int64_t>(count)) {
        reader_.fail(list.position(), "tensor index " + std::to_string(index) + " does not exist");
      }
    }
  }

  void signatures(const FlatVector& list) {
    for (uint32_t i = 0; i < list.size() && reader_.ok(); ++i) {
      const FlatTable signature = list.table(i);
      signature.string(slot::kSignatureKey);
      const uint32_t graph = signature.scalar<uint32_t>(slot::kSubgraphIndex);
      if (reader_.ok() && graph >= tensor_counts_.size()) {
        return reader_.fail(signature.position(), "a signature's subgraph does not exist");
      }
      for (const int side : {slot::kSignatureInputs, slot::kSignatureOutputs}) {
        const FlatVector maps = signature.vector(side, 4);
        for (uint32_t j = 0; j < maps.size() && reader_.ok(); ++j) {
          const FlatTable map = maps.table(j);
          map.string(slot::kMapName);
          if (map.scalar<uint32_t>(slot::kMapTensor) >= tensor_counts_[graph]) {
            reader_.fail(map.position(), "a signature's tensor does not exist");
          }
        }
      }
    }
  }

  std::span<const std::byte> model_;
  FlatReader reader_;
  uint32_t operator_codes_ = 0;
  std::vector<uint64_t> buffer_bytes_;
  std::vector<uint32_t> tensor_counts_;  // per subgraph
};

}  // namespace

std::string check_tflite(std::span<const std::byte> model) { return Checker(model).check(); }

}  // namespace tandem
