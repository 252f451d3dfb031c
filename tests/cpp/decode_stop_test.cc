// StopMatcher: what is shown never contains a stop string, and does not depend on how the text was cut.
#include <algorithm>

#include "check.h"
#include "decode/stop.h"

using tandem::StopMatcher;

namespace {

std::string stream(StopMatcher& matcher, const std::string& text, size_t step) {
  std::string shown;
  for (size_t i = 0; i < text.size(); i += step) shown += matcher.push(text.substr(i, step));
  return shown + matcher.finish();
}

}  // namespace

TEST(stop_ids) {
  StopMatcher matcher({1, 106}, {});
  CHECK(matcher.is_stop_id(106));
  CHECK(!matcher.is_stop_id(2));
  CHECK_EQ(matcher.push("text"), std::string("text"));
}

TEST(holds_back_only_what_may_begin_a_stop) {
  StopMatcher matcher({}, {"<end>", "END"});
  CHECK_EQ(matcher.push("a<e"), std::string("a"));
  CHECK_EQ(matcher.push(""), std::string());
  CHECK_EQ(matcher.push("x<"), std::string("<ex"));
  CHECK_EQ(matcher.push("end"), std::string());
  CHECK(!matcher.matched());
  CHECK_EQ(matcher.push("> after"), std::string());
  CHECK(matcher.matched());
  CHECK_EQ(matcher.push("more"), std::string());
  CHECK_EQ(matcher.finish(), std::string());
}

TEST(finish_returns_the_rest) {
  StopMatcher matcher({}, {"stop"});
  CHECK_EQ(matcher.push("don't sto"), std::string("don't "));
  CHECK_EQ(matcher.finish(), std::string("sto"));
}

TEST(overlapping_beginnings) {
  StopMatcher matcher({}, {"aab"});
  CHECK_EQ(stream(matcher, "aaaab", 1), std::string("aa"));
  StopMatcher nested({}, {"abcd", "bc"});
  CHECK_EQ(stream(nested, "xabcd", 5), std::string("xa"));
  StopMatcher together({}, {"c", "bc"});
  CHECK_EQ(stream(together, "abc", 3), std::string("a"));
}

TEST(unicode_stop_strings) {
  StopMatcher matcher({}, {"\xE2\x96\x81\xF0\x9F\x98\x80"});
  CHECK_EQ(stream(matcher, "ok \xE2\x96\x81\xE2\x96\x81\xF0\x9F\x98\x80 no", 3), std::string("ok \xE2\x96\x81"));
}

TEST(any_cut_equals_the_definition) {
  uint32_t state = 12345;
  const auto next = [&](uint32_t n) {
    return (state = state * 1664525u + 1013904223u) >> 16 & 0xffff ? (state >> 16) % n : 0u;
  };
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops(1 + next(3));
    for (std::string& stop : stops) {
      for (uint32_t i = 1 + next(4); i > 0; --i) stop += static_cast<char>('a' + next(2));
    }
    std::string text;
    for (uint32_t i = next(24); i > 0; --i) text += static_cast<char>('a' + next(2));
    size_t first_end = std::string::npos, begin = 0;
    for (const std::string& stop : stops) {
      const size_t at = text.find(stop);
      if (at == std::string::npos) continue;
      const size_t end = at + stop.size();
      if (first_end == std::string::npos || end < first_end || (end == first_end && at < begin))
        first_end = end, begin = at;
    }
    const std::string want = first_end == std::string::npos ? text : text.substr(0, begin);
    for (size_t step : {size_t{1}, size_t{2}, size_t{3}, size_t{100}}) {
      StopMatcher matcher({}, stops);
      CHECK_EQ(stream(matcher, text, step), want);
      CHECK_EQ(matcher.matched(), first_end != std::string::npos);
    }
  }
}
