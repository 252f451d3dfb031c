// Patches of images, or frames of sound, to rows in the space of token embeddings: one of the bundle's media models
// (converter/media.py), whose signatures differ only in their number of rows. Every row is computed by itself, so any
// number of them is cut into steps. Thread-safe: calls are serialised. Depends on litert.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "litert/handles.h"
#include "litert/weight_cache.h"

namespace tandem {

class MediaEmbedder {
 public:
  // Where the model lies, and what its rows are.
  struct Place {
    int fd = -1;  // of the bundle; must stay open
    std::size_t offset = 0, bytes = 0;
    std::string prefix;       // of its signatures
    int64_t input_width = 0;  // values of a patch or frame
    int64_t hidden_size = 0;
    bool positions = false;  // patches have positions
  };

  // Compiles the model. `environment` must outlive the embedder; the caller serialises creations. kBundle when the
  // model has other tensors than `place` says.
  static Result<std::unique_ptr<MediaEmbedder>> create(const litert::Environment& environment, const Place& place,
                                                       const litert::CpuOptions& options, litert::WeightCache cache);

  // rows: [count, input_width]. positions: [count, 2] (x, y), each below what the model tells apart, or empty for
  // sound. out: [count, hidden_size].
  Status embed(std::span<const float> rows, std::span<const int32_t> positions, float* out);

 private:
  // One signature with its own tensors.
  struct Step {
    const litert::Signature* signature = nullptr;
    int64_t rows = 0;
    std::vector<litert::HostTensor> owned;
    std::vector<litert::RtTensorBuffer> inputs, outputs;
    float* values = nullptr;
    int32_t* positions = nullptr;  // nullptr for sound
    const float* features = nullptr;
  };

  explicit MediaEmbedder(litert::WeightCache cache) : cache_(std::move(cache)) {}
  static Result<Step> make_step(const std::shared_ptr<const litert::Library>& library,
                                const litert::Signature& signature, const Place& place);

  Place place_;
  litert::WeightCache cache_;
  std::unique_ptr<litert::Model> model_;
  std::vector<Step> steps_;  // smallest first
  litert::CompiledModel compiled_;
  std::mutex mutex_;
};

}  // namespace tandem
