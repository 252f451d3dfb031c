// Recursive-descent JSON reader (depth-limited) and writer.
#include "base/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <unordered_set>

namespace tandem {
namespace {

// Length of the well-formed UTF-8 sequence at `at` (Unicode table 3-7), or 0.
size_t utf8_length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{0}; };
  const auto continues = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
  const uint8_t lead = byte(at), second = byte(at + 1);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return continues(at + 1) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    const uint8_t low = lead == 0xe0 ? 0xa0 : 0x80;   // no overlong forms
    const uint8_t high = lead == 0xed ? 0x9f : 0xbf;  // no surrogates
    return second >= low && second <= high && continues(at + 2) ? 3 : 0;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    const uint8_t low = lead == 0xf0 ? 0x90 : 0x80;
    const uint8_t high = lead == 0xf4 ? 0x8f : 0xbf;  // not above U+10FFFF
    return second >= low && second <= high && continues(at + 2) && continues(at + 3) ? 4 : 0;
  }
  return 0;
}

void append_utf8(std::string& out, uint32_t code) {
  const auto put = [&](uint32_t byte) { out += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xc0 | code >> 6);
    put(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    put(0xe0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3f));
    put(0x80 | (code & 0x3f));
  } else {
    put(0xf0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3f));
    put(0x80 | (code >> 6 & 0x3f));
    put(0x80 | (code & 0x3f));
  }
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Parser {
 public:
  Parser(std::string_view text, const JsonLimits& limits) : text_(text), limits_(limits) {}

  Result<Json> document() {
    if (text_.size() > limits_.max_bytes) {
      return Status(Code::kInvalidRequest, "JSON text of " + std::to_string(text_.size()) + " bytes; at most " +
                                               std::to_string(limits_.max_bytes) + " are allowed");
    }
    Json result;
    skip_space();
    if (!value(result, 0)) return error_;
    skip_space();
    if (at_ < text_.size()) {
      fail("nothing may follow the value");
      return error_;
    }
    return result;
  }

 private:
  // Records the first error with its position; always false, so that parsing functions can return it.
  bool fail(const std::string& what) {
    if (!error_.ok()) return false;
    const std::string_view before = text_.substr(0, std::min(at_, text_.size()));
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0
    error_ = Status(Code::kInvalidRequest, "JSON line " + std::to_string(line) + ", column " +
                                               std::to_string(before.size() - line_start + 1) + ": " + what);
    return false;
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void skip_space() {
    while (at_ < text_.size() && (peek() == ' ' || peek() == '\n' || peek() == '\r' || peek() == '\t')) ++at_;
  }

  bool value(Json& out, int depth) {
    if (++values_ > limits_.max_values) return fail("more than " + std::to_string(limits_.max_values) + " values");
    if (at_ >= text_.size()) return fail("the text ends where a value is expected");
    switch (peek()) {
      case '{':
        return object(out, depth + 1);
      case '[':
        return array(out, depth + 1);
      case '"': {
        std::string text;
        if (!string(text)) return false;
        out = Json(std::move(text));
        return true;
      }
      case 't':
        return word("true", Json(true), out);
      case 'f':
        return word("false", Json(false), out);
      case 'n':
        return word("null", Json(), out);
      default:
        return number(out);
    }
  }

  bool word(std::string_view expected, Json value, Json& out) {
    if (text_.substr(at_, expected.size()) != expected) return fail("expected a value");
    at_ += expected.size();
    out = std::move(value);
    return true;
  }

  bool deeper(int depth) {
    return depth <= limits_.max_depth || fail("nested deeper than " + std::to_string(limits_.max_depth) + " levels");
  }

  bool array(Json& out, int depth) {
    if (!deeper(depth)) return false;
    ++at_;
    Json::Array items;
    skip_space();
    if (!take(']')) {
      do {
        skip_space();
        if (!value(items.emplace_back(), depth)) return false;
        skip_space();
      } while (take(','));
      if (!take(']')) return fail("expected ',' or ']'");
    }
    out = Json(std::move(items));
    return true;
  }

  bool object(Json& out, int depth) {
    if (!deeper(depth)) return false;
    ++at_;
    out = Json::object();
    std::unordered_set<std::string> keys;
    skip_space();
    if (take('}')) return true;
    do {
      skip_space();
      const size_t key_start = at_;
      std::string key;
      if (peek() != '"') return fail("expected a key in double quotes");
      if (!string(key)) return false;
      if (!keys.insert(key).second) {
        at_ = key_start;
        return fail("this key occurs twice");
      }
      skip_space();
      if (!take(':')) return fail("expected ':'");
      skip_space();
      Json member;
      if (!value(member, depth)) return false;
      out.set(std::move(key), std::move(member));
      skip_space();
    } while (take(','));
    return take('}') || fail("expected ',' or '}'");
  }

  bool number(Json& out) {
    const size_t start = at_;
    bool integral = true;
    take('-');
    if (!is_digit(peek())) {
      at_ = start;
      return fail("expected a value");
    }
    if (!take('0')) digits();
    if (is_digit(peek())) return fail("a number may not start with 0");
    if (take('.')) {
      integral = false;
      if (!digits()) return fail("expected a digit after the decimal point");
    }
    if (peek() == 'e' || peek() == 'E') {
      integral = false;
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      if (!digits()) return fail("expected a digit in the exponent");
    }
    const char* first = text_.data() + start;
    const char* last = text_.data() + at_;
    int64_t whole = 0;
    if (integral && std::from_chars(first, last, whole).ec == std::errc()) {
      out = Json(whole);
      return true;
    }
    double real = 0;
    // out_of_range covers underflow too; a denormal's place in a manifest would be an error anyway
    if (std::from_chars(first, last, real).ec != std::errc() || !std::isfinite(real)) {
      at_ = start;
      return fail("number out of range");
    }
    out = Json(real);
    return true;
  }

  bool digits() {
    const size_t start = at_;
    while (is_digit(peek())) ++at_;
    return at_ > start;
  }

  bool string(std::string& out) {
    ++at_;  // the opening quote
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '"') {
        ++at_;
        return true;
      }
      if (static_cast<uint8_t>(c) < 0x20) return fail("control characters in strings must be escaped");
      if (c == '\\') {
        if (!escape(out)) return false;
        continue;
      }
      const size_t length = utf8_length(text_, at_);
      if (length == 0) return fail("invalid UTF-8");
      out.append(text_, at_, length);
      at_ += length;
    }
    return fail("the text ends inside a string");
  }

  bool escape(std::string& out) {
    ++at_;  // the backslash
    static constexpr std::string_view kNames = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
    const char name = peek();
    if (name == 'u') return unicode_escape(out);
    const size_t index = at_ < text_.size() ? kNames.find(name) : std::string_view::npos;
    if (index == std::string_view::npos) return fail("unknown escape in a string");
    out += kValues[index];
    ++at_;
    return true;
  }

  bool unicode_escape(std::string& out) {
    uint32_t code = 0;
    if (!hex4(code)) return false;
    if (code >= 0xdc00 && code <= 0xdfff) return fail("low surrogate without a high one");
    if (code >= 0xd800 && code <= 0xdbff) {
      uint32_t low = 0;
      if (!take('\\') || peek() != 'u') return fail("high surrogate without a low one");
      if (!hex4(low)) return false;
      if (low < 0xdc00 || low > 0xdfff) return fail("high surrogate without a low one");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    append_utf8(out, code);
    return true;
  }

  bool hex4(uint32_t& code) {
    ++at_;  // the u
    const std::string_view hex = text_.substr(std::min(at_, text_.size()), 4);
    const auto parsed = std::from_chars(hex.data(), hex.data() + hex.size(), code, 16);
    if (hex.size() != 4 || parsed.ec != std::errc() || parsed.ptr != hex.data() + 4) {
      return fail("expected four hexadecimal digits after \\u");
    }
    at_ += 4;
    return true;
  }

  std::string_view text_;
  const JsonLimits& limits_;
  size_t at_ = 0;
  size_t values_ = 0;
  Status error_;
};

void write_string(std::string& out, std::string_view text) {
  static constexpr std::string_view kNames = "\"\\bfnrt", kValues = "\"\\\b\f\n\r\t";
  static constexpr char kDigits[] = "0123456789abcdef";
  out += '"';
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (const size_t index = kValues.find(c); index != std::string_view::npos) {
      out += '\\';
      out += kNames[index];
      ++at;
    } else if (static_cast<uint8_t>(c) < 0x20) {
      out += "\\u00";
      out += kDigits[c >> 4];
      out += kDigits[c & 15];
      ++at;
    } else if (const size_t length = utf8_length(text, at); length > 0) {
      out.append(text, at, length);
      at += length;
    } else {
      append_utf8(out, 0xfffd);
      ++at;
    }
  }
  out += '"';
}

template <class T>
void write_number(std::string& out, T value) {
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value).ptr;
  const std::string_view text(buffer, static_cast<size_t>(end - buffer));
  out += text;
  // Keeps a double a double when the text is read again.
  if (std::is_same_v<T, double> && text.find_first_of(".e") == std::string_view::npos) out += ".0";
}

void new_line(std::string& out, int indent, int depth) {
  if (indent == 0) return;
  out += '\n';
  out.append(static_cast<size_t>(indent) * static_cast<size_t>(depth), ' ');
}

}  // namespace

Result<Json> Json::parse(std::string_view text, const JsonLimits& limits) { return Parser(text, limits).document(); }

Json Json::object() {
  Json result;
  result.value_ = Object();
  return result;
}

const Json* Json::find(std::string_view key) const {
  const Object* all = members();
  if (all == nullptr) return nullptr;
  for (const Member& member : *all) {
    if (member.key == key) return &member.value;
  }
  return nullptr;
}

const char* Json::kind() const {
  static constexpr const char* kKinds[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
  return kKinds[value_.index()];
}

Json& Json::set(std::string key, Json value) {
  if (is_null()) value_ = Object();
  if (Object* all = std::get_if<Object>(&value_)) all->push_back({std::move(key), std::move(value)});
  return *this;
}

Json& Json::add(Json item) {
  if (is_null()) value_ = Array();
  if (Array* all = std::get_if<Array>(&value_)) all->push_back(std::move(item));
  return *this;
}

std::string Json::write(int indent) const {
  std::string out;
  write_to(out, indent, 0);
  return out;
}

void Json::write_to(std::string& out, int indent, int depth) const {
  const auto write_list = [&](char open, char close, const auto& items, const auto& write_item) {
    out += open;
    bool first = true;
    for (const auto& item : items) {
      if (!first) out += ',';
      first = false;
      new_line(out, indent, depth + 1);
      write_item(item);
    }
    if (!first) new_line(out, indent, depth);
    out += close;
  };
  if (const bool* flag = boolean()) {
    out += *flag ? "true" : "false";
  } else if (const int64_t* whole = integer()) {
    write_number(out, *whole);
  } else if (const double* number = real(); number != nullptr && std::isfinite(*number)) {
    write_number(out, *number);
  } else if (const std::string* string = text()) {
    write_string(out, *string);
  } else if (const Array* items = array()) {
    write_list('[', ']', *items, [&](const Json& item) { item.write_to(out, indent, depth + 1); });
  } else if (const Object* all = members()) {
    write_list('{', '}', *all, [&](const Member& member) {
      write_string(out, member.key);
      out += indent == 0 ? ":" : ": ";
      member.value.write_to(out, indent, depth + 1);
    });
  } else {
    out += "null";
  }
}

}  // namespace tandem
