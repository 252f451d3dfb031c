// Options of a compiled model as LiteRT 2.3 takes them: TOML text under an identifier. An unknown key or a syntax error
// is silently ignored there, so what goes in is made here only. Depends on library.h.
#pragma once

#include <string>
#include <vector>

#include "litert/library.h"

namespace tandem::litert {

// Adds one TOML payload; ownership of the text moves to the options.
Status add_toml(const Library& api, RtOptions options, const char* identifier, const std::string& toml);

// What every model gets: messages kept in a buffer, and only the signatures `keys` compiled (empty: all).
Status add_runtime_options(const Library& api, RtOptions options, const std::vector<std::string>& keys);

// A TOML basic string. Control characters cannot be passed on: kInvalidRequest, since a syntax error would fall back to
// defaults.
Result<std::string> toml_string(const std::string& text);

}  // namespace tandem::litert
