// SHA-256 (FIPS 180-4), streaming. Uses the x86 SHA instructions where the CPU has them.
// Depends on nothing. Thread rule: one object, one owner.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace tandem {

using Sha256Digest = std::array<uint8_t, 32>;

class Sha256 {
 public:
  enum class Backend { kScalar, kShaNi };

  Sha256() : Sha256(best_backend()) {}
  explicit Sha256(Backend backend);  // a backend that the CPU lacks becomes kScalar

  static Backend best_backend();  // of this CPU

  void update(std::span<const std::byte> bytes);
  Sha256Digest finish();  // ends the computation; the object is then spent

 private:
  void compress(const uint8_t* blocks, size_t count);

  Backend backend_;
  std::array<uint32_t, 8> state_;
  std::array<uint8_t, 64> pending_;  // the block being filled
  size_t pending_bytes_ = 0;
  uint64_t total_bytes_ = 0;
};

Sha256Digest sha256(std::span<const std::byte> bytes);
std::string to_hex(std::span<const uint8_t> bytes);  // lower case

}  // namespace tandem
