// A small JSON document: a strict reader with limits, for text from files, and a writer. Depends on base/status.h.
// Reader: RFC 8259 without extensions (no comments, NaN or trailing commas), valid UTF-8, no duplicate keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/status.h"

namespace tandem {

struct JsonLimits {
  size_t max_bytes = size_t{4} << 20;  // of the text
  size_t max_values = 1 << 18;         // values of all kinds: bounds the memory of "[[],[],..."
  int max_depth = 32;                  // nested arrays and objects
};

class Json {
 public:
  struct Member;
  using Array = std::vector<Json>;
  using Object = std::vector<Member>;  // in the order of the text

  // On failure the message gives the position as "line L, column C" (column in bytes, from 1).
  static Result<Json> parse(std::string_view text, const JsonLimits& limits = {});

  Json() = default;                                              // null
  Json(bool value) : value_(value) {}                            // NOLINT: implicit on purpose
  Json(int value) : value_(int64_t{value}) {}                    // NOLINT
  Json(int64_t value) : value_(value) {}                         // NOLINT
  Json(uint64_t value) : value_(static_cast<int64_t>(value)) {}  // NOLINT: sizes in files are below 2^63
  Json(double value) : value_(value) {}                          // NOLINT
  Json(std::string value) : value_(std::move(value)) {}          // NOLINT
  Json(std::string_view value) : value_(std::string(value)) {}   // NOLINT
  Json(const char* value) : value_(std::string(value)) {}        // NOLINT
  Json(Array items) : value_(std::move(items)) {}                // NOLINT
  static Json object();

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }

  // Each gives nullptr when the value is of another kind. A number without fraction and exponent that fits 64 bits is
  // an integer, any other a double.
  const bool* boolean() const { return std::get_if<bool>(&value_); }
  const int64_t* integer() const { return std::get_if<int64_t>(&value_); }
  const double* real() const { return std::get_if<double>(&value_); }
  const std::string* text() const { return std::get_if<std::string>(&value_); }
  const Array* array() const { return std::get_if<Array>(&value_); }
  const Object* members() const { return std::get_if<Object>(&value_); }

  const Json* find(std::string_view key) const;  // nullptr when absent or not an object
  const char* kind() const;                      // "null", "boolean", ... for messages

  // For building; each turns a null into the container. No-ops on other kinds.
  Json& set(std::string key, Json value);  // appends a member; the caller keeps keys unique
  Json& add(Json item);

  // indent 0: one line without spaces. Bytes that are not UTF-8 are written as U+FFFD, NaN and infinities as null.
  std::string write(int indent = 0) const;

 private:
  void write_to(std::string& out, int indent, int depth) const;

  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> value_;
};

struct Json::Member {
  std::string key;
  Json value;
};

}  // namespace tandem
