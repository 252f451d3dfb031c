// The tokenizer on a small made-up vocabulary; the real ones are compared with Hugging Face in test_tokenizer.py.
#include "tokenizer/tokenizer.h"

#include <random>
#include <thread>

#include "check.h"
#include "tokenizer/stream_decoder.h"
#include "tokenizer/utf8.h"
#include "tokenizer_digest.h"

namespace {

using digest_test::Ids, digest_test::Spec, digest_test::small_spec;
using enum digest_test::Id;
using tandem::StreamDecoder;
using tandem::Tokenizer;

// A section and the tokenizer over it.
struct Fixture {
  explicit Fixture(const Spec& spec = small_spec())
      : section(digest_test::write(spec)), opened(Tokenizer::from_digest(digest_test::as_span(section))) {
    CHECK(opened.ok());
  }
  const Tokenizer& operator*() const { return opened.value(); }
  const Tokenizer* operator->() const { return &opened.value(); }
  std::string section;
  tandem::Result<Tokenizer> opened;
};

Ids bytes_of(std::string_view text) {
  Ids ids;
  for (const char byte : text) ids.push_back(kByte0 + static_cast<unsigned char>(byte));
  return ids;
}

Ids operator+(Ids left, const Ids& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

}  // namespace

TEST(merges_by_rank_then_from_the_left) {
  const Fixture t;
  CHECK(t->encode("abc") == Ids{kABC});  // b+c comes before a+b
  CHECK(t->encode("ab") == Ids{kAB});
  CHECK(t->encode("   ") == (Ids{kSpace2, kSpace}));
  CHECK(t->encode("a b") == (Ids{kA, kSpace, kB}));
  CHECK(t->encode("").empty());
  CHECK_EQ(t->vocab_size(), kPhrase + 1);
}

TEST(outdated_candidates_are_dropped) {
  // "ab" is a candidate until "bc" takes its b; "a" + "bc" must then wait for its own rank, after "bc" + "b".
  Spec spec = small_spec();
  spec.pieces.push_back("bcb");
  spec.added.clear();
  spec.merges = {{"b", "c"}, {"a", "b"}, {"bc", "b"}, {"a", "bc"}};
  const Fixture t(spec);
  CHECK(t->encode("abcb") == (Ids{kA, static_cast<int32_t>(spec.pieces.size()) - 1}));
}

TEST(named_tokens_and_bos) {
  const Fixture t;
  CHECK(t->encode("a", true) == (Ids{2, kA}));
  CHECK(t->encode("", true) == Ids{2});
  CHECK_EQ(t->bos_id(), 2);
  CHECK(t->is_special(4));
  CHECK(!t->is_special(kPlain));
  CHECK(!t->is_special(-1));
  CHECK(!t->is_special(1 << 30));
  Spec without = small_spec();
  without.bos = -1;
  CHECK(Fixture(without)->encode("a", true) == Ids{kA});
}

TEST(special_tokens_only_when_asked_for) {
  const Fixture t;
  CHECK(t->encode("a<|turn>b", false, true) == (Ids{kA, 4, kB}));
  CHECK(t->encode("a<|turn>b") == Ids{kA} + bytes_of("<|turn>") + Ids{kB});
  CHECK(t->encode("<b><bos>") == Ids{kPlain} + bytes_of("<") + Ids{kB} + bytes_of("os>"));
  CHECK(t->encode("a a") == Ids{kPhrase});  // found in the normalised text
}

TEST(no_special_token_out_of_merges) {
  Spec spec = small_spec();
  spec.added.push_back({kAB, "ab", true, false});
  const Fixture t(spec);
  CHECK(t->encode("ab") == (Ids{kA, kB}));
  CHECK(t->encode("ab", false, true) == Ids{kAB});
}

TEST(longest_added_token_wins) {
  Spec spec = small_spec();
  spec.added.push_back({kPhrase + 1, "\n", false, false});
  spec.added.push_back({kPhrase + 2, "\n\n\n", false, false});
  const Fixture t(spec);
  CHECK(t->encode("\n\n\n\n\n") == (Ids{kPhrase + 2, kPhrase + 1, kPhrase + 1}));
}

TEST(unknown_characters) {
  const Fixture t;
  const std::string nul("\0", 1);
  CHECK(t->encode("é") == Ids{kE});
  CHECK(t->encode("😀") == bytes_of("😀"));
  CHECK(t->encode("a" + nul + "b") == Ids{kA} + bytes_of(nul) + Ids{kB});
  Spec spec = small_spec();
  spec.flags &= ~tandem::digest::kByteFallback;
  CHECK(Fixture(spec)->encode("axyb") == (Ids{kA, 3, kB}));
  spec.flags &= ~tandem::digest::kFuseUnk;
  CHECK(Fixture(spec)->encode("axyb") == (Ids{kA, 3, 3, kB}));
  spec.unk = -1;
  CHECK(Fixture(spec)->encode("axyb") == Ids{kAB});
}

TEST(invalid_utf8_is_replaced) {
  const Fixture t;
  const Ids bad = bytes_of("\xEF\xBF\xBD");
  CHECK(t->encode("a\xFF") == Ids{kA} + bad);
  CHECK(t->encode("\xE2\x96"
                  "b") == bad + Ids{kB});                         // one truncated sequence
  CHECK(t->encode("\xED\xA0\x80") == bad + bad + bad);            // a surrogate
  CHECK(t->encode("\xC0\x80") == bad + bad);                      // overlong
  CHECK(t->encode("\xF4\x90\x80\x80") == bad + bad + bad + bad);  // beyond U+10FFFF
  CHECK(t->encode("\xF0\x9F\x98") == bad);
}

TEST(decode_and_pieces) {
  const Fixture t;
  CHECK_EQ(t->decode(Ids{2, kABC, kSpace2, kB, 4}), "<bos>abc  b<|turn>");
  CHECK_EQ(t->decode(Ids{2, kABC, kSpace2, kB, 4}, true), "abc  b");
  CHECK_EQ(t->decode(Ids{-1, kA, 1 << 30, kB}), "ab");
  CHECK_EQ(t->piece(kSpace2), "  ");
  CHECK_EQ(t->piece(kByte0 + 0xE2), "\xE2");
  CHECK_EQ(t->piece(-1), "");
  // One bad byte spoils its run; a skipped special token does not end a run.
  CHECK_EQ(t->decode(bytes_of("A\xFF") + Ids{kA}),
           "\xEF\xBF\xBD\xEF\xBF\xBD"
           "a");
  CHECK_EQ(t->decode(bytes_of("\xC3") + Ids{0} + bytes_of("\xA9"), true), "é");
  CHECK_EQ(t->decode(bytes_of("\xC3") + Ids{0} + bytes_of("\xA9")), "\xEF\xBF\xBD<pad>\xEF\xBF\xBD");
}

TEST(stream_is_decode_in_pieces) {
  const Fixture t;
  StreamDecoder decoder(*t);
  std::string text;
  for (const int32_t id : bytes_of("😀")) CHECK_EQ(decoder.push(id), "");
  CHECK_EQ(decoder.push(kA), "😀a");
  CHECK_EQ(decoder.flush(), "");
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    Ids ids;
    for (uint32_t n = random() % 12; n != 0; --n) {
      ids.push_back(random() % 2 ? static_cast<int32_t>(kByte0 + 0x80 + random() % 0x80)
                                 : static_cast<int32_t>(random() % (kPhrase + 3)) - 1);
    }
    const bool skip = random() % 2 != 0;
    StreamDecoder stream(*t, skip);
    std::string joined;
    for (const int32_t id : ids) {
      const std::string part = stream.push(id);
      CHECK(tandem::utf8::is_valid(part));
      joined += part;
    }
    joined += stream.flush();
    CHECK(joined == t->decode(ids, skip));
  }
}

TEST(long_inputs_end) {
  const Fixture t;
  const size_t size = size_t{4} << 20;
  CHECK_EQ(t->encode(std::string(size, ' ')).size(), size / 2);
  CHECK_EQ(t->encode(std::string(size, '<')).size(), size);
  CHECK_EQ(t->encode(std::string(size, '\xFF')).size(), size * 3);
  CHECK_EQ(t->decode(Ids(size, kByte0 + 0xFF)).size(), size * 3);
}

TEST(round_trip_of_random_text) {
  const Fixture t;
  std::mt19937 random(1);
  for (int round = 0; round < 500; ++round) {
    std::string text;
    for (uint32_t n = random() % 40; n != 0; --n) {
      const char* const parts[] = {"a", "b", "c", " ", "é", "😀", "<", "<b>", "\n", "日本", "<bos>"};
      text += parts[random() % std::size(parts)];
    }
    CHECK_EQ(t->decode(t->encode(text)), text);
    CHECK_EQ(t->decode(t->encode(text, false, true)), text);
  }
}

TEST(one_tokenizer_many_threads) {
  const Fixture t;
  const Ids expected = t->encode("abc <b> ab");
  std::vector<int> bad(4, 0);
  std::vector<std::thread> threads;
  for (int& count : bad) {
    threads.emplace_back([&t, &expected, &count] {
      for (int i = 0; i < 500; ++i) count += t->encode("abc <b> ab") != expected;
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(bad == std::vector<int>(4, 0));
}
