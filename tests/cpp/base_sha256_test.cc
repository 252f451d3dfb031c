// SHA-256 against the vectors of FIPS 180-4 and NIST's CAVP, on every backend that this CPU has.
#include <algorithm>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/sha256.h"
#include "check.h"

namespace {

using tandem::Sha256;

std::vector<Sha256::Backend> backends() {
  std::vector<Sha256::Backend> all = {Sha256::Backend::kScalar};
  if (Sha256::best_backend() != Sha256::Backend::kScalar) all.push_back(Sha256::best_backend());
  return all;
}

std::string hash(Sha256::Backend backend, std::string_view text, size_t piece = std::string_view::npos) {
  Sha256 sha(backend);
  while (!text.empty()) {
    const std::string_view part = text.substr(0, piece);
    sha.update(std::as_bytes(std::span(part)));
    text.remove_prefix(part.size());
  }
  return tandem::to_hex(sha.finish());
}

std::string from_hex(std::string_view hex) {
  std::string text;
  for (size_t i = 0; i < hex.size(); i += 2)
    text += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  return text;
}

}  // namespace

TEST(known_vectors) {
  struct Vector {
    std::string message;
    const char* digest;
  };
  const Vector vectors[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrst"
       "u",
       "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
      {from_hex("d3"), "28969cdfa74a12c82f3bad960b0b000aca2ac329deea5c2328ebc6f2ba9802c1"},    // CAVP ShortMsg, 8 bits
      {from_hex("11af"), "5ca7133fa735326081558ac312c620eeca9970d1e70a4b95533d956f072d1f98"},  // 16 bits
      {std::string(1000000, 'a'), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
  };
  for (const Sha256::Backend backend : backends()) {
    for (const Vector& vector : vectors) CHECK_EQ(hash(backend, vector.message), vector.digest);
  }
}

TEST(backends_and_pieces_agree) {
  std::mt19937 random(7);
  std::string text(1000, '\0');
  for (char& c : text) c = static_cast<char>(random());
  for (size_t length = 0; length <= 300; ++length) {
    const std::string_view part = std::string_view(text).substr(0, length);
    const std::string expected = hash(Sha256::Backend::kScalar, part);
    for (const Sha256::Backend backend : backends()) {
      for (const size_t piece : {size_t{1}, size_t{3}, size_t{63}, size_t{64}, size_t{65}, size_t{1000}}) {
        CHECK_EQ(hash(backend, part, piece), expected);
      }
    }
  }
}
