// Sections of the tokenizer that are damaged, forged or unusually large.
#include "tokenizer_digest.h"

#include <random>

#include "check.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

namespace {

using digest_test::Ids, digest_test::small_spec;
using enum digest_test::Id;
using tandem::Tokenizer;

// Uses everything that reads the section; whatever comes out, it must end without a fault.
void exercise(const Tokenizer& t) {
  Ids ids;
  for (const bool special : {true, false}) {
    const Ids some = t.encode("abc  <|turn><b>é😀\n a a\xFF<0x41>", true, special);
    ids.insert(ids.end(), some.begin(), some.end());
  }
  const int32_t last = std::min(t.vocab_size(), 400);
  for (int32_t id = -1; id <= last; ++id) ids.push_back(id);
  CHECK(tandem::utf8::is_valid(t.decode(ids)));
  for (const int32_t id : ids) (void)t.piece(id);
}

// Checks that the section does not open, and why.
void refused(const std::string& section, const std::string& reason) {
  const auto opened = Tokenizer::from_digest(digest_test::as_span(section));
  CHECK(opened.status().code() == tandem::Code::kBundle);
  const std::string& message = opened.status().message();
  if (message.find(reason) == std::string::npos) CHECK_EQ(message, reason);
}

}  // namespace

TEST(damaged_sections_give_an_error) {
  const std::string sound = digest_test::write(small_spec());
  std::mt19937 random(3);
  for (size_t cut = 0; cut < sound.size(); cut = cut < 300 ? cut + 1 : cut + 97) {
    const std::string shorter = sound.substr(0, cut);
    CHECK(!Tokenizer::from_digest(digest_test::as_span(shorter)).ok());
  }
  for (int round = 0; round < 4000; ++round) {
    std::string flipped = sound;
    flipped[random() % flipped.size()] ^= static_cast<char>(1u << (random() % 8));
    const auto opened = Tokenizer::from_digest(digest_test::as_span(flipped));
    CHECK(!opened.ok());
    CHECK(opened.status().code() == tandem::Code::kBundle);
    CHECK(opened.status().message().starts_with("tokenizer section: "));
  }
}

TEST(other_versions_say_what_to_do) {
  std::string section = digest_test::write(small_spec());
  section[8] = 1;
  refused(section, "version 1, this program reads version 2; convert the model again");
  refused(section.substr(0, 32), "version 1");  // whatever that version's header is
  section[8] = 3;
  refused(section, "version 3, this program reads version 2; convert the model again, or update the program");
}

TEST(forged_tables_are_named) {
  using digest_test::number, digest_test::Parts;
  const Parts sound = digest_test::parts(small_spec());
  CHECK(Tokenizer::from_digest(digest_test::as_span(sound.section())).ok());
  const auto forge = [&](auto change, const std::string& reason) {
    Parts forged = sound;
    change(forged);
    refused(forged.section(), reason);
  };
  const std::string endless(5, '\xFF');  // a number that does not end within 32 bits
  forge([](Parts& p) { p.vocab_size = 0; }, "vocabulary size");
  forge([](Parts& p) { p.vocab_size = tandem::digest::kMaxVocabulary + 1; }, "vocabulary size");
  forge([](Parts& p) { p.merges = tandem::digest::kMaxMerges + 1; }, "number of merges");
  forge([](Parts& p) { p.text_bytes = tandem::digest::kMaxTextBytes + 1; }, "length of the pieces");
  forge([](Parts& p) { p.unk = static_cast<int32_t>(p.vocab_size); }, "named token");
  forge([](Parts& p) { p.bos = -2; }, "named token");

  forge([](Parts& p) { p.tokens.pop_back(); }, "table of tokens is malformed");
  forge([](Parts& p) { p.tokens.resize(p.tokens.size() - 2); }, "does not cover");
  forge([](Parts& p) { p.tokens += number(1) + '\x01'; }, "table of tokens is malformed");
  forge([](Parts& p) { p.tokens = number(UINT32_MAX) + '\x01'; }, "table of tokens is malformed");
  forge([&](Parts& p) { p.tokens = endless; }, "table of tokens is malformed");

  forge([](Parts& p) { p.pieces.pop_back(); }, "pieces ends early");
  forge([](Parts& p) { p.pieces.push_back('x'); }, "goes on");
  forge([&](Parts& p) { p.pieces = endless; }, "pieces ends early");
  forge([](Parts& p) { p.pieces = number(UINT32_MAX) + "x"; }, "pieces ends early");
  forge([](Parts& p) { ++p.text_bytes; }, "shorter than announced");
  forge([](Parts& p) { --p.text_bytes; }, "too long");
  forge([](Parts& p) { p.text_bytes = 0; }, "too long");

  forge([](Parts& p) { p.runs.clear(); }, "fewer merges");
  forge([](Parts& p) { p.runs += number(0); }, "more merges");
  forge([](Parts& p) { p.runs = number(UINT32_MAX - 1); }, "more merges");
  forge([](Parts& p) { p.runs = number(1); }, "runs is malformed");  // the jump is missing
  forge([&](Parts& p) { p.runs = endless; }, "runs is malformed");
  forge([](Parts& p) { p.runs = number(1) + number(2 * kPlain); }, "gives a token outside");  // added, not the model's
  forge([](Parts& p) { p.runs = number(1) + number(UINT32_MAX); }, "gives a token outside");
  forge([](Parts& p) { p.pairs.pop_back(); }, "pairs has the wrong size");
  forge([](Parts& p) { p.pairs.push_back(0); }, "pairs has the wrong size");
  forge([](Parts& p) { ++p.merges, p.pairs.clear(); }, "pairs has the wrong size");
  forge([](Parts& p) { p.pairs[0] = p.pairs[1] = '\xFF'; }, "takes a token outside");
}

TEST(a_piece_needs_its_parts) {
  // Two pieces of each other: neither can be put together.
  digest_test::Parts parts;
  parts.vocab_size = 3;
  parts.tokens = digest_test::number(2) + '\x05' + digest_test::number(1) + '\x0D';
  parts.pieces = digest_test::number(1) + "a";
  parts.text_bytes = 1;
  parts.merges = 2;
  parts.runs = digest_test::run(1, 0, 0) + digest_test::run(1, 1, 1);
  parts.pairs = digest_test::pairs({{1, 2}, {0, 2}}, 3);
  refused(parts.section(), "a token has no text");
}

TEST(merges_cannot_blow_up_the_pieces) {
  // Each piece is the one before it twice: 2^39 bytes, whatever is announced.
  constexpr uint32_t kTokens = 40;
  digest_test::Parts parts;
  parts.vocab_size = kTokens;
  parts.tokens = digest_test::number(1) + '\x0D' + digest_test::number(kTokens - 1) + '\x05';
  parts.pieces = digest_test::number(1) + "a";
  parts.merges = kTokens - 1;
  std::vector<std::pair<uint32_t, uint32_t>> ids;
  for (uint32_t id = 1; id < kTokens; ++id) {
    parts.runs += digest_test::run(1, id, id == 1 ? 0 : id);
    ids.emplace_back(id - 1, id - 1);
  }
  parts.pairs = digest_test::pairs(ids, kTokens);
  for (const uint32_t announced : {0u, 1u, 1000u, tandem::digest::kMaxTextBytes}) {
    parts.text_bytes = announced;
    refused(parts.section(), "a piece is too long");
  }
}

TEST(merges_that_collide_are_refused) {
  // One pair listed again and again fills one bucket.
  digest_test::Parts parts = digest_test::parts(small_spec());
  parts.merges = 100;
  parts.runs = digest_test::run(100, kAB, 0);
  parts.pairs = digest_test::pairs(std::vector<std::pair<uint32_t, uint32_t>>(100, {kA, kB}), parts.vocab_size);
  parts.tokens[2 * kBC + 1] |= tandem::digest::kStored;
  parts.tokens[2 * kABC + 1] |= tandem::digest::kStored;
  parts.tokens[2 * kSpace2 + 1] |= tandem::digest::kStored;
  const size_t e = parts.pieces.find("é") - 1;
  parts.pieces.insert(e,
                      digest_test::number(2) + "bc" + digest_test::number(3) + "abc" + digest_test::number(6) + "▁▁");
  refused(parts.section(), "share a bucket");
}

TEST(merges_of_a_large_vocabulary) {
  // Ids of twenty bits; every pair of 200 letters merges.
  constexpr uint32_t kLetter = 200, kTokens = tandem::digest::kMaxVocabulary;
  digest_test::Parts parts;
  parts.vocab_size = kTokens;
  std::vector<std::pair<uint32_t, uint32_t>> ids;
  for (uint32_t i = 0; i < kLetter; ++i) {
    const char32_t c = 0x100 + i;
    parts.pieces += digest_test::number(2);
    parts.pieces.push_back(static_cast<char>(0xC0 | c >> 6));
    parts.pieces.push_back(static_cast<char>(0x80 | (c & 0x3F)));
  }
  parts.text_bytes = 2 * kLetter;
  parts.tokens = digest_test::number(kLetter) + '\x0D' + digest_test::number(kTokens - kLetter - kLetter * kLetter) +
                 '\0' + digest_test::number(kLetter * kLetter) + '\x05';
  const uint32_t first = kTokens - kLetter * kLetter;
  for (uint32_t i = 0; i < kLetter * kLetter; ++i) {
    parts.runs += digest_test::run(1, first + i, i == 0 ? 0 : first + i);
    ids.emplace_back(i / kLetter, i % kLetter);
    parts.text_bytes += 4;
  }
  parts.merges = static_cast<uint32_t>(ids.size());
  parts.pairs = digest_test::pairs(ids, kTokens);
  const std::string section = parts.section();
  const auto t = Tokenizer::from_digest(digest_test::as_span(section));
  CHECK(t.ok());
  int bad = 0;
  for (uint32_t i = 0; i < kLetter * kLetter; ++i) {
    const std::string text = t.value().piece(static_cast<int32_t>(first + i));
    bad += t.value().encode(text) != Ids{static_cast<int32_t>(first + i)};
  }
  CHECK_EQ(bad, 0);
  CHECK(t.value().encode("ĀĀĀ") == (Ids{static_cast<int32_t>(first), 0}));
}

TEST(forged_sections_do_no_harm) {
  const std::string sound = digest_test::write(small_spec());
  std::mt19937 random(4);
  int accepted = 0;
  for (int round = 0; round < 8000; ++round) {
    std::string forged = sound;
    for (uint32_t n = 1 + random() % 4; n != 0; --n) {
      // Half of them in the header, where the structure is; sometimes a whole word of ones or zeros.
      const size_t at = random() % (random() % 2 ? size_t{80} : forged.size());
      if (random() % 4 == 0) {
        const size_t bytes = std::min<size_t>(4, forged.size() - at);
        forged.replace(at, bytes, bytes, random() % 2 ? '\xFF' : '\0');
      } else {
        forged[at] ^= static_cast<char>(1u << (random() % 8));
      }
    }
    digest_test::repair(&forged);
    const auto opened = Tokenizer::from_digest(digest_test::as_span(forged));
    if (!opened.ok()) continue;
    ++accepted;
    exercise(opened.value());
  }
  CHECK(accepted > 1000);  // the checks behind the checksum were reached
}
