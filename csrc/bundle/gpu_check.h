// What keeps a model from LiteRT's GPU accelerator, found before that sees a byte: some inputs end the process there
// instead of failing. Depends on base.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace tandem {

// How the accelerator holds constants.
enum class GpuConstants {
  kCopied,  // every signature has its own
  kShared,  // once, for all signatures of a model
};

// Looks at a .tflite model (its section of a bundle). Empty when it may be given to the accelerator; else what is in
// the way. Signatures that begin with `tandem_` never run there and are not looked at.
std::string gpu_obstacle(std::span<const std::byte> model, GpuConstants constants);

// Whether the accelerator can share the constants of this model: a table of float32 embeddings is a fatal check there.
bool gpu_can_share(std::span<const std::byte> model);

}  // namespace tandem
