// A fast 64-bit checksum against accidents: rotten disks, cut or mixed-up files. Not against people: who can write the
// file can also write the checksum. Eight independent lanes of 64-bit words, each h = (rotl(h, 29) ^ word) * odd: every
// step is a bijection of h, so any damage within one word is certain to show, and other damage goes unseen with a
// chance of about 2^-64. The multiplications of a CPU without special instructions keep up with its memory. Depends on
// nothing. Thread rule: one object, one owner.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace tandem {

class Checksum {
 public:
  void update(std::span<const std::byte> bytes);
  uint64_t finish();  // ends the computation; the object is then spent

 private:
  static constexpr std::size_t kLanes = 8, kStripe = kLanes * sizeof(uint64_t);
  void stripes(const std::byte* data, std::size_t count);

  std::array<uint64_t, kLanes> lanes_ = {1, 2, 3, 4, 5, 6, 7, 8};
  std::array<std::byte, kStripe> pending_{};
  std::size_t pending_bytes_ = 0;
  uint64_t total_ = 0;
};

uint64_t checksum(std::span<const std::byte> bytes);

}  // namespace tandem
