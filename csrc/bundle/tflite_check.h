// Structural check of a .tflite model that comes from a file: what a loader follows without asking is inside the bytes.
// Depends on base.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace tandem {

// Empty when sound, else the first fault. `model` is the whole section: weights may lie behind the flatbuffer.
// Checks the identifier, the version, all tables down to tensors, operators, buffers and signatures, that their indices
// exist, that external buffers lie inside the section, and that constants are as large as their shapes say. It does
// not judge operators and their options.
std::string check_tflite(std::span<const std::byte> model);

}  // namespace tandem
