// UTF-8 in and out. Depends on nothing.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace tandem::utf8 {

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

struct Character {
  char32_t code_point = 0;
  size_t bytes = 1;
  bool valid = false;  // false: `bytes` is the length of the invalid sequence (its maximal subpart, as Python counts)
};

// The character that `text` (not empty) starts with.
Character decode(std::string_view text);
bool is_valid(std::string_view text);
// `text` with every invalid sequence replaced by U+FFFD: Python's errors="replace".
std::string replace_invalid(std::string_view text);

}  // namespace tandem::utf8
