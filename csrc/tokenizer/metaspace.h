// Spaces, as the vocabulary writes them. Depends on nothing.
#pragma once

#include <string>
#include <string_view>

namespace tandem {

inline constexpr std::string_view kMetaspace = "\xE2\x96\x81";  // U+2581

inline std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0;;) {
    const size_t found = text.find(from, at);
    out.append(text.substr(at, found - at));
    if (found == std::string_view::npos) return out;
    out.append(to);
    at = found + from.size();
  }
}

}  // namespace tandem
