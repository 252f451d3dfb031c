// How much memory this process may still take. Depends on nothing.
#pragma once

#include <cstdint>
#include <string>

namespace tandem {

// Bytes that can be taken without swapping: what the system has left, file cache included, or less where a control
// group (v1 or v2) or the variable TANDEM_MEMORY_LIMIT (bytes) allows less. `root` is "/" but in tests.
// Returns UINT64_MAX where nothing is known.
uint64_t available_memory(const std::string& root = "/");

// "7.21 GiB", for messages.
std::string gibibytes(uint64_t bytes);

}  // namespace tandem
