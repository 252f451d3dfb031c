#include "kv/checksum.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace tandem {
namespace {

constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio

uint64_t absorb(uint64_t h, uint64_t word) { return (std::rotl(h, 29) ^ word) * kOdd; }

}  // namespace

void Checksum::stripes(const std::byte* data, std::size_t count) {
  std::array<uint64_t, kLanes> h = lanes_;
  for (; count > 0; --count, data += kStripe) {
    std::array<uint64_t, kLanes> words;
    std::memcpy(words.data(), data, kStripe);
    for (std::size_t i = 0; i < kLanes; ++i) h[i] = absorb(h[i], words[i]);
  }
  lanes_ = h;
}

void Checksum::update(std::span<const std::byte> bytes) {
  total_ += bytes.size();
  if (pending_bytes_ > 0) {
    const std::size_t take = std::min(bytes.size(), kStripe - pending_bytes_);
    std::copy_n(bytes.data(), take, pending_.data() + pending_bytes_);
    pending_bytes_ += take;
    bytes = bytes.subspan(take);
    if (pending_bytes_ < kStripe) return;
    stripes(pending_.data(), 1);
    pending_bytes_ = 0;
  }
  stripes(bytes.data(), bytes.size() / kStripe);
  bytes = bytes.subspan(bytes.size() / kStripe * kStripe);
  std::copy_n(bytes.data(), bytes.size(), pending_.data());
  pending_bytes_ = bytes.size();
}

uint64_t Checksum::finish() {
  if (pending_bytes_ > 0) {
    std::fill(pending_.begin() + static_cast<std::ptrdiff_t>(pending_bytes_), pending_.end(), std::byte{0});
    stripes(pending_.data(), 1);
  }
  uint64_t h = total_;
  for (const uint64_t lane : lanes_) h = absorb(h, lane);
  h = (h ^ h >> 32) * kOdd;
  return h ^ h >> 29;
}

uint64_t checksum(std::span<const std::byte> bytes) {
  Checksum sum;
  sum.update(bytes);
  return sum.finish();
}

}  // namespace tandem
