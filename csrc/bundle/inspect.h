// A bundle's contents as JSON text, for `tandem inspect`. Depends on base and bundle/reader.h.
#pragma once

#include <string>

#include "bundle/reader.h"

namespace tandem {

// {"path", "hash", "container": {"version", "header_end"}, "sections": [{"name", "type", "offset", "bytes", "items"}],
//  "totals": {"file", "sections", "padding"} in bytes, "manifest": as in the file}
std::string inspect(const Bundle& bundle);

}  // namespace tandem
