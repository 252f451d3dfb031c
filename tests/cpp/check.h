// A unit-test runner in one header: TEST(name) { CHECK(...); CHECK_EQ(a, b); } and one main per test program.
// `program --list` prints the names, `program NAME` runs one; the exit status is the number of failed tests.
// pytest collects every program (tests/python/test_cpp.py).
#pragma once

#include <cstdio>
#include <cstring>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

namespace check {

struct Case {
  const char* name;
  void (*body)();
};
inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}
inline int& failures() {
  static int count = 0;
  return count;
}
inline void fail(const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
  ++failures();
}
struct Registrar {
  Registrar(const char* name, void (*body)()) { cases().push_back({name, body}); }
};

}  // namespace check

#define TEST(name)                                              \
  static void test_##name();                                    \
  static check::Registrar registrar_##name(#name, test_##name); \
  static void test_##name()

#define CHECK(condition)                                                            \
  do {                                                                              \
    if (!(condition)) check::fail(__FILE__, __LINE__, "CHECK failed: " #condition); \
  } while (false)

#define CHECK_EQ(a, b)                                                                         \
  do {                                                                                         \
    const auto& check_a_ = (a);                                                                \
    const auto& check_b_ = (b);                                                                \
    if (!(check_a_ == check_b_)) {                                                             \
      std::ostringstream text_;                                                                \
      text_ << "CHECK_EQ failed: " #a " == " #b " (" << check_a_ << " vs " << check_b_ << ")"; \
      check::fail(__FILE__, __LINE__, text_.str());                                            \
    }                                                                                          \
  } while (false)

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--list") == 0) {
    for (const auto& one : check::cases()) std::printf("%s\n", one.name);
    return 0;
  }
  int failed = 0, run = 0;
  for (const auto& one : check::cases()) {
    if (argc > 1 && std::strcmp(argv[1], one.name) != 0) continue;
    const int before = check::failures();
    one.body();
    ++run;
    failed += check::failures() != before;
  }
  if (run == 0) {
    std::fprintf(stderr, "no such test\n");
    return 1;
  }
  return failed;
}
