// What keeps a model from LiteRT's GPU accelerator, found before that sees a byte: some inputs end the process there
// instead of failing. Depends on base.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace tandem {

// Looks at a .tflite model (its section of a bundle). Empty when it may be given to the accelerator; else what is in
// the way. Signatures that begin with `tandem_` never run there and are not looked at.
std::string gpu_obstacle(std::span<const std::byte> model);

}  // namespace tandem
