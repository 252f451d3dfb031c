// SHA-256 after FIPS 180-4: a plain C++ compression function and one in x86 SHA instructions.
#include "base/sha256.h"

#include <algorithm>
#include <bit>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#define TANDEM_SHA_NI 1
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace tandem {
namespace {

constexpr size_t kBlockBytes = 64;

// FIPS 180-4, 4.2.2: fractional parts of the cube roots of the first 64 primes.
alignas(16) constexpr std::array<uint32_t, 64> kRound = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

uint32_t load_big_endian(const uint8_t* p) {
  return uint32_t{p[0]} << 24 | uint32_t{p[1]} << 16 | uint32_t{p[2]} << 8 | uint32_t{p[3]};
}

void compress_scalar(uint32_t* state, const uint8_t* block, size_t count) {
  for (; count > 0; --count, block += kBlockBytes) {
    std::array<uint32_t, 64> w;
    for (size_t t = 0; t < 16; ++t) w[t] = load_big_endian(block + 4 * t);
    for (size_t t = 16; t < 64; ++t) {
      const uint32_t s0 = std::rotr(w[t - 15], 7) ^ std::rotr(w[t - 15], 18) ^ (w[t - 15] >> 3);
      const uint32_t s1 = std::rotr(w[t - 2], 17) ^ std::rotr(w[t - 2], 19) ^ (w[t - 2] >> 10);
      w[t] = s1 + w[t - 7] + s0 + w[t - 16];
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (size_t t = 0; t < 64; ++t) {
      const uint32_t sum1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
      const uint32_t t1 = h + sum1 + ((e & f) ^ (~e & g)) + kRound[t] + w[t];
      const uint32_t sum0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
      const uint32_t t2 = sum0 + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1;
      d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
  }
}

#ifdef TANDEM_SHA_NI

// The instructions keep the state as (a b e f) and (c d g h), most significant word first; each SHA256RNDS2 does two
// rounds. `w` is a ring of the 16 newest schedule words: group t/4 sits in w[t/4 % 4].
__attribute__((target("sha,sse4.1,ssse3"))) void compress_sha_ni(uint32_t* state, const uint8_t* block, size_t count) {
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  const __m128i abcd = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(state)), 0x1b);
  const __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(state + 4)), 0x1b);
  __m128i abef = _mm_unpackhi_epi64(efgh, abcd);
  __m128i cdgh = _mm_unpacklo_epi64(efgh, abcd);

  for (; count > 0; --count, block += kBlockBytes) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i w[4];
#pragma GCC unroll 16
    for (int group = 0; group < 16; ++group) {
      __m128i& now = w[group % 4];
      if (group < 4) {
        now = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block) + group), swap);
      } else {
        const __m128i last = w[(group + 3) % 4], before_last = w[(group + 2) % 4];
        const __m128i partial = _mm_sha256msg1_epu32(now, w[(group + 1) % 4]);
        now = _mm_sha256msg2_epu32(_mm_add_epi32(partial, _mm_alignr_epi8(last, before_last, 4)), last);
      }
      const __m128i* round = reinterpret_cast<const __m128i*>(kRound.data());
      const __m128i sum = _mm_add_epi32(now, _mm_load_si128(round + group));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  const __m128i high = _mm_shuffle_epi32(_mm_unpackhi_epi64(cdgh, abef), 0x1b);
  const __m128i low = _mm_shuffle_epi32(_mm_unpacklo_epi64(cdgh, abef), 0x1b);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state), high);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state + 4), low);
}

bool cpu_has_sha_ni() {
  // __builtin_cpu_supports does not know "sha" in the compilers that we support; its bit is leaf 7, EBX 29.
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__builtin_cpu_supports("sse4.1") || !__builtin_cpu_supports("ssse3")) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b >> 29 & 1) != 0;
}

#endif  // TANDEM_SHA_NI

}  // namespace

Sha256::Backend Sha256::best_backend() {
#ifdef TANDEM_SHA_NI
  static const bool available = cpu_has_sha_ni();
  if (available) return Backend::kShaNi;
#endif
  return Backend::kScalar;
}

Sha256::Sha256(Backend backend)
    : backend_(backend == best_backend() ? backend : Backend::kScalar),
      // FIPS 180-4, 5.3.3: fractional parts of the square roots of the first eight primes.
      state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19} {}

void Sha256::compress(const uint8_t* blocks, size_t count) {
#ifdef TANDEM_SHA_NI
  if (backend_ == Backend::kShaNi) return compress_sha_ni(state_.data(), blocks, count);
#endif
  compress_scalar(state_.data(), blocks, count);
}

void Sha256::update(std::span<const std::byte> bytes) {
  const uint8_t* data = reinterpret_cast<const uint8_t*>(bytes.data());
  size_t left = bytes.size();
  total_bytes_ += left;
  if (pending_bytes_ > 0) {
    const size_t take = std::min(left, kBlockBytes - pending_bytes_);
    std::copy_n(data, take, pending_.data() + pending_bytes_);
    pending_bytes_ += take;
    data += take;
    left -= take;
    if (pending_bytes_ < kBlockBytes) return;
    compress(pending_.data(), 1);
    pending_bytes_ = 0;
  }
  if (const size_t blocks = left / kBlockBytes; blocks > 0) {
    compress(data, blocks);
    data += blocks * kBlockBytes;
    left -= blocks * kBlockBytes;
  }
  std::copy_n(data, left, pending_.data());
  pending_bytes_ = left;
}

Sha256Digest Sha256::finish() {
  // Padding: one bit, zeros, and the length in bits as a big-endian 64-bit number at the end of the last block.
  std::array<uint8_t, 2 * kBlockBytes> tail{};
  std::copy_n(pending_.data(), pending_bytes_, tail.data());
  tail[pending_bytes_] = 0x80;
  const size_t blocks = pending_bytes_ + 9 <= kBlockBytes ? 1 : 2;
  const uint64_t bits = total_bytes_ * 8;
  for (size_t i = 0; i < 8; ++i) tail[blocks * kBlockBytes - 1 - i] = static_cast<uint8_t>(bits >> (8 * i));
  compress(tail.data(), blocks);

  Sha256Digest digest;
  for (size_t i = 0; i < digest.size(); ++i) digest[i] = static_cast<uint8_t>(state_[i / 4] >> (24 - 8 * (i % 4)));
  return digest;
}

Sha256Digest sha256(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.finish();
}

std::string to_hex(std::span<const uint8_t> bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * bytes.size());
  for (const uint8_t byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

}  // namespace tandem
