// Names of a TFLite model's signatures, read without loading it. Depends on base.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace tandem {

// `model` is the whole section. Empty when it is not sound; check_tflite says why.
std::vector<std::string> signature_keys(std::span<const std::byte> model);

}  // namespace tandem
