// Errors as values: every function that can fail returns Status or Result<T>. Nothing here throws, prints or aborts.
// Depends on nothing.
#pragma once

#include <optional>
#include <string>
#include <utility>

namespace tandem {

// What kind of failure it is; the bindings map each to one exception class and the C ABI to one number.
enum class Code : int {
  kOk = 0,
  kInvalidRequest = 1,  // an argument or option is wrong; the object stays usable
  kBundle = 2,          // the bundle file is missing, damaged or of an unknown version
  kContextLength = 3,   // the request does not fit the context; nothing was appended
  kOutOfMemory = 4,     // an allocation failed or the memory plan does not fit
  kBackend = 5,         // LiteRT is missing, of a wrong version, or reported a failure
  kCancelled = 6,       // cancelled by the caller; the session keeps what was done
  kIo = 7,              // a file could not be read or written
  kTimeout = 12,        // a time limit passed; the session keeps what was done (8 to 11: the C ABI has its own there)
};

// A code and one message that names what failed, where, and the remedy. Cheap to move; kOk carries no message.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

// A value or the Status that explains its absence. `value()` may be called only when ok().
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}          // NOLINT: implicit on purpose
  Result(Status status) : status_(std::move(status)) {}  // NOLINT: implicit on purpose

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  T& value() & { return *value_; }
  const T& value() const& { return *value_; }
  T&& value() && { return *std::move(value_); }

 private:
  std::optional<T> value_;
  Status status_;
};

}  // namespace tandem

// Returns from the enclosing function when `expression` (a Status) is not ok.
#define TANDEM_RETURN_IF_ERROR(expression)                                                           \
  do {                                                                                               \
    if (::tandem::Status tandem_status_ = (expression); !tandem_status_.ok()) return tandem_status_; \
  } while (false)

#define TANDEM_CONCAT_INNER(a, b) a##b
#define TANDEM_CONCAT(a, b) TANDEM_CONCAT_INNER(a, b)

// Declares or assigns `lhs` from a Result expression, or returns its Status: TANDEM_ASSIGN_OR_RETURN(auto x, f());
#define TANDEM_ASSIGN_OR_RETURN(lhs, expression) \
  TANDEM_ASSIGN_OR_RETURN_INNER(TANDEM_CONCAT(tandem_result_, __LINE__), lhs, expression)
#define TANDEM_ASSIGN_OR_RETURN_INNER(result, lhs, expression) \
  auto result = (expression);                                  \
  if (!result.ok()) return result.status();                    \
  lhs = std::move(result).value()
