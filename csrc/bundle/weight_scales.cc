#include "bundle/weight_scales.h"

#include <algorithm>
#include <limits>
#include <string>

#include "bundle/flatbuffer.h"

namespace tandem {
namespace {

constexpr uint64_t kMaxVisits = 1 << 24;
constexpr std::size_t kMaxFlatbufferBytes = std::numeric_limits<int32_t>::max();

// Slots of the tflite schema.
constexpr int kSubgraphs = 2, kBuffers = 4;                          // of Model
constexpr int kTensors = 0;                                          // of SubGraph
constexpr int kTensorBuffer = 2, kQuantization = 4;                  // of Tensor
constexpr int kScale = 2, kDetailsType = 4, kDetails = 5;            // of QuantizationParameters
constexpr int kBlockScales = 0;                                      // of BlockwiseQuantization: index of a tensor
constexpr int kBufferData = 0, kBufferOffset = 1, kBufferBytes = 2;  // of Buffer
constexpr uint8_t kBlockwise = 2;                                    // of QuantizationDetails

WeightScales place_of(const FlatTable& buffer) {
  const FlatVector data = buffer.vector(kBufferData, 1);
  if (data.size() > 0) return {data.position(), data.size()};
  return {buffer.scalar<uint64_t>(kBufferOffset), buffer.scalar<uint64_t>(kBufferBytes)};
}

}  // namespace

Result<std::map<uint64_t, WeightScales>> find_scales(std::span<const std::byte> model,
                                                     const std::set<uint64_t>& buffers) {
  FlatReader reader(model.first(std::min(model.size(), kMaxFlatbufferBytes)), kMaxVisits);
  const FlatTable root = reader.root();
  const FlatVector stored = root.vector(kBuffers, 4), subgraphs = root.vector(kSubgraphs, 4);
  std::map<uint64_t, WeightScales> found;
  for (uint32_t g = 0; g < subgraphs.size() && reader.ok() && found.size() < buffers.size(); ++g) {
    const FlatVector tensors = subgraphs.table(g).vector(kTensors, 4);
    for (uint32_t t = 0; t < tensors.size() && reader.ok(); ++t) {
      const FlatTable tensor = tensors.table(t);
      const auto index = tensor.scalar<uint32_t>(kTensorBuffer);
      if (!buffers.contains(index) || found.contains(index)) continue;
      const FlatTable quantization = tensor.table(kQuantization);
      if (!quantization) continue;
      if (quantization.scalar<uint8_t>(kDetailsType) == kBlockwise) {
        const auto scales = quantization.table(kDetails).scalar<int32_t>(kBlockScales);
        if (scales < 0 || static_cast<uint32_t>(scales) >= tensors.size()) continue;
        const auto buffer = tensors.table(static_cast<uint32_t>(scales)).scalar<uint32_t>(kTensorBuffer);
        if (buffer < stored.size()) found[index] = place_of(stored.table(buffer));
      } else if (const FlatVector scales = quantization.vector(kScale, 4); scales.size() > 0) {
        found[index] = {scales.position(), uint64_t{scales.size()} * 4};
      }
    }
  }
  const auto inside = [&](const auto& entry) {
    return entry.second.offset <= model.size() && entry.second.bytes <= model.size() - entry.second.offset;
  };
  if (!reader.ok()) return Status(Code::kBundle, "the model is damaged: " + reader.error());
  if (found.size() < buffers.size() || !std::all_of(found.begin(), found.end(), inside)) {
    return Status(Code::kBundle, "the model lacks the scales of a matrix; convert it again");
  }
  return found;
}

}  // namespace tandem
