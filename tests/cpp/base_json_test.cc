// The JSON reader: what it takes, what it refuses and where it says the fault lies; the writer: it round-trips.
#include <limits>
#include <random>
#include <string>

#include "base/json.h"
#include "check.h"

namespace {

using tandem::Json;

std::string again(const std::string& text) {
  const auto parsed = Json::parse(text);
  return parsed.ok() ? parsed.value().write() : "error: " + parsed.status().message();
}

std::string error(const std::string& text, const tandem::JsonLimits& limits = {}) {
  const auto parsed = Json::parse(text, limits);
  return parsed.ok() ? "" : parsed.status().message();
}

}  // namespace

TEST(values) {
  CHECK_EQ(again(" null "), "null");
  CHECK_EQ(again("[true,false]"), "[true,false]");
  CHECK_EQ(again("-0"), "0");
  CHECK_EQ(again("9223372036854775807"), "9223372036854775807");
  CHECK_EQ(again("-9223372036854775808"), "-9223372036854775808");
  CHECK_EQ(again("[1.5, 1e3, 1E-06, 2.0]"), "[1.5,1000.0,1e-06,2.0]");
  CHECK_EQ(again("{ \"a\" : [ ] , \"b\" : { } }"), "{\"a\":[],\"b\":{}}");
  CHECK_EQ(again(R"("\u00e9\u20ac\ud83d\ude00\n\"\\\/")"), "\"é€😀\\n\\\"\\\\/\"");
  CHECK_EQ(again("\"\\u0000\\u001f\""), "\"\\u0000\\u001f\"");

  const auto object = Json::parse(R"({"i": 3, "r": 3.0, "s": "x", "b": true, "n": null})");
  CHECK(object.ok());
  const Json& value = object.value();
  CHECK(value.find("i")->integer() != nullptr && *value.find("i")->integer() == 3);
  CHECK(value.find("i")->real() == nullptr);
  CHECK(value.find("r")->integer() == nullptr && *value.find("r")->real() == 3.0);
  CHECK_EQ(*value.find("s")->text(), "x");
  CHECK(*value.find("b")->boolean());
  CHECK(value.find("n")->is_null());
  CHECK(value.find("absent") == nullptr);
  CHECK(value.find("i")->find("x") == nullptr);
}

TEST(integers_beyond_64_bits_become_reals) {
  const auto big = Json::parse("18446744073709551616");
  CHECK(big.ok() && big.value().real() != nullptr && *big.value().real() == 18446744073709551616.0);
}

TEST(refuses_what_is_not_json) {
  const char* const bad[] = {"",
                             " ",
                             "tru",
                             "nul",
                             "True",
                             "NaN",
                             "Infinity",
                             "-",
                             "+1",
                             "01",
                             "-01",
                             "1.",
                             ".5",
                             "1e",
                             "1e+",
                             "0x1",
                             "1e999",
                             "[",
                             "]",
                             "[1",
                             "[1,",
                             "[1,]",
                             "[,1]",
                             "[1 2]",
                             "{",
                             "{\"a\"",
                             "{\"a\":",
                             "{\"a\":1",
                             "{\"a\":1,}",
                             "{a:1}",
                             "{'a':1}",
                             "{\"a\" 1}",
                             "{\"a\":1,\"a\":2}",
                             "\"",
                             "\"a",
                             "\"\\",
                             "\"\\x\"",
                             "\"\\u12\"",
                             "\"\\u12g4\"",
                             "\"\\u+123\"",
                             "\"\\ud800\"",
                             "\"\\udc00\"",
                             "\"\\ud800\\u0041\"",
                             "\"\t\"",
                             "\"\n\"",
                             "1 2",
                             "{} x",
                             "// c\n1",
                             "\"\x80\"",
                             "\"\xc0\xaf\"",
                             "\"\xe0\x80\x80\"",
                             "\"\xed\xa0\x80\"",
                             "\"\xf4\x90\x80\x80\"",
                             "\"\xf8\x88\x80\x80\x80\"",
                             "\"\xe2\x82\"",
                             "\"\xe2",
                             "\xef\xbb\xbf"
                             "1"};
  for (const char* text : bad) {
    if (error(text).empty()) check::fail(__FILE__, __LINE__, std::string("accepted: ") + text);
  }
  CHECK(!error(std::string("1\0", 2)).empty());
}

TEST(errors_name_the_position) {
  CHECK_EQ(error("[1,\n  2,\n  oops]"), "JSON line 3, column 3: expected a value");
  CHECK_EQ(error("{\"a\":1,\"a\":2}"), "JSON line 1, column 8: this key occurs twice");
  CHECK_EQ(error("[1"), "JSON line 1, column 3: expected ',' or ']'");
}

TEST(limits) {
  tandem::JsonLimits limits;
  limits.max_depth = 3;
  CHECK(error("[[[1]]]", limits).empty());
  CHECK(!error("[[[[1]]]]", limits).empty());
  CHECK(!error("[{\"a\":[{}]}]", limits).empty());
  limits.max_values = 4;
  CHECK(error("[1,2,3]", limits).empty());
  CHECK(!error("[1,2,3,4]", limits).empty());
  limits.max_bytes = 3;
  CHECK(error("[1]", limits).empty());
  CHECK(!error("[1] ", limits).empty());
  CHECK(!error(std::string(100000, '[')).empty());
}

TEST(writer) {
  Json list;
  list.add(1).add("two").add(2.5).add(true).add(Json());
  Json object;
  object.set("list", list).set("empty", Json::object()).set("size", uint64_t{1} << 40);
  CHECK_EQ(object.write(), R"({"list":[1,"two",2.5,true,null],"empty":{},"size":1099511627776})");
  CHECK_EQ(Json(Json::Array{Json(1), Json(2)}).write(2), "[\n  1,\n  2\n]");
  CHECK_EQ(Json("a\xff"
                "b")
               .write(),
           "\"a\xef\xbf\xbd"
           "b\"");
  CHECK_EQ(Json(std::numeric_limits<double>::quiet_NaN()).write(), "null");
}

TEST(broken_text_never_crashes) {
  const std::string sound = R"({"a":[1,2.5e-3,{"b":"\u00e9\ud83d\ude00x"}],"c":null,"d":[true,false,[[]]]})";
  for (unsigned seed = 0; seed < 20000; ++seed) {
    std::mt19937 random(seed);
    std::string text = sound;
    for (unsigned i = 0; i <= seed % 4; ++i) text[random() % text.size()] = static_cast<char>(random());
    text.resize(text.size() - random() % 3);
    const auto parsed = Json::parse(text);
    if (!parsed.ok()) continue;
    const std::string written = parsed.value().write();
    CHECK_EQ(again(written), written);  // what is accepted means something
  }
}
