// Checks every byte of a bundle. Takes as long as reading the file. Depends on base and bundle/reader.h.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "bundle/reader.h"

namespace tandem {

// Called now and then with the bytes checked so far and in total; false cancels (Code::kCancelled).
using VerifyProgress = std::function<bool(uint64_t done, uint64_t total)>;

// The problems found, one sentence each; empty when the bundle is sound. Checks the sha256 of every section, that the
// padding between sections is zero, and the structure of TFLite sections. An error only when the file cannot be read.
Result<std::vector<std::string>> verify(const Bundle& bundle, const VerifyProgress& progress = {});

}  // namespace tandem
