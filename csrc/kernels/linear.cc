#include "kernels/linear.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "base/cpu_features.h"

namespace tandem {
namespace {

constexpr int64_t kBlockScales = 32;    // bytes behind a block of a group
constexpr double kSumTolerance = 1e-4;  // of the backend's float sums

int nibble(std::byte b, bool high) {
  const int value = std::to_integer<int>(high ? b >> 4 : b & std::byte{15});
  return value > 7 ? value - 16 : value;
}

// Weight of `output` within its group.
int packed_weight(const PackedMatrix& matrix, const std::byte* group, int64_t output, int64_t input) {
  const std::byte* data = group + matrix.group() * 4;
  if (matrix.bits == 8) {
    return static_cast<int8_t>(data[input / 4 * 256 + output * 4 + input % 4]);
  }
  if (matrix.wide) return nibble(data[input / 8 * 256 + output * 4 + input % 4], input % 8 >= 4);
  if (matrix.block != 0) data += input / matrix.block * kBlockScales;
  return nibble(data[input / 16 * 128 + output * 8 + input % 8], input % 16 >= 8);
}

// Scale of 16 times the weights of `output` in `block`.
float block_scale(const PackedMatrix& matrix, const std::byte* group, int64_t output, int64_t block) {
  const std::byte* behind = group + matrix.group() * 4 + (block + 1) * matrix.block * 8 + block * kBlockScales;
  uint16_t half = 0;
  std::memcpy(&half, behind + 2 * output, 2);
  return std::bit_cast<float>(uint32_t{half} << 16);
}

// Whether the sums of a group that has scales for blocks are those of its weights, and its biases 0.
bool block_sums_hold(const PackedMatrix& matrix, const std::byte* group) {
  for (int64_t o = 0; o < matrix.group(); ++o) {
    double sum = 0, size = 0;
    for (int64_t b = 0; b < matrix.inputs / matrix.block; ++b) {
      const float scale = 16.0f * block_scale(matrix, group, o, b);
      if (!std::isfinite(scale) || scale < 0.0f) return false;
      for (int64_t i = b * matrix.block; i < (b + 1) * matrix.block; ++i) {
        const double value = double{scale} * packed_weight(matrix, group, o, i);
        sum += value;
        size += std::fabs(value);
      }
    }
    float stored = 0, bias = 0;
    std::memcpy(&stored, group + 4 * o, 4);
    std::memcpy(&bias, group + matrix.group_bytes() - 4 * (matrix.group() - o), 4);
    if (bias != 0.0f || !(std::fabs(stored + sum) <= kSumTolerance * size)) return false;
  }
  return true;
}

int raw_weight(const PackedMatrix& matrix, const std::byte* raw, int64_t output, int64_t input) {
  const int64_t at = output * matrix.inputs + input;
  return matrix.bits == 8 ? static_cast<int8_t>(raw[at]) : nibble(raw[at / 2], at % 2 != 0);
}

}  // namespace

bool linear_available() {
#if defined(__x86_64__)
  const Result<Isa> isa = select_isa();
  return isa.ok() && isa.value() >= Isa::kAvx512 && __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

bool holds(const PackedMatrix& matrix, const std::byte* raw) {
  for (const int64_t g : {int64_t{0}, matrix.groups() - 1}) {
    const std::byte* group = matrix.data + g * matrix.group_bytes();
    if (matrix.block != 0 && !block_sums_hold(matrix, group)) return false;
    for (int64_t o = 0; o < matrix.group(); ++o) {
      int64_t total = 0;
      for (int64_t i = 0; i < matrix.inputs; ++i) {
        const int weight = packed_weight(matrix, group, o, i);
        if (weight != raw_weight(matrix, raw, g * matrix.group() + o, i)) return false;
        total += weight;
      }
      if (matrix.block != 0) continue;
      int32_t sum = 0;
      float scale = 0, bias = 0;
      const std::byte* behind = group + matrix.group() * (4 + matrix.inputs * matrix.bits / 8);
      std::memcpy(&sum, group + 4 * o, 4);
      std::memcpy(&scale, behind + 4 * o, 4);
      std::memcpy(&bias, behind + 4 * (matrix.group() + o), 4);
      const int64_t wanted = -total * (matrix.bits == 4 ? 16 : 1);
      if (sum != wanted || bias != 0.0f || !std::isfinite(scale) || scale < 0.0f) return false;
    }
  }
  return true;
}

#if !defined(__x86_64__)
// Never called: linear_available() says no.
void quantise_row(const float*, int64_t, int, const ByteRows&) {}
int linear_block(const PackedMatrix&) { return 1; }
void linear(const PackedMatrix&, const ByteRows&, int, int64_t, int64_t, float*, int64_t) {}
void rms_norm(const float*, const float*, float, int64_t, float*) {}
void add_normed(const float*, const float*, float, float, int64_t, float*) {}
void gated_gelu(const float*, int64_t, float*) {}
void soft_cap(float, int64_t, float*) {}
#endif

}  // namespace tandem
