#include "kernels/linear.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "base/cpu_features.h"

namespace tandem {
namespace {

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
  return nibble(data[input / 16 * 128 + output * 8 + input % 8], input % 16 >= 8);
}

int raw_weight(const PackedMatrix& matrix, const std::byte* raw, int64_t output, int64_t input) {
  const int64_t at = output * matrix.inputs + input;
  return matrix.bits == 8 ? static_cast<int8_t>(raw[at]) : nibble(raw[at / 2], at % 2 != 0);
}

}  // namespace

bool linear_available() {
#if defined(__x86_64__)
  const Result<Isa> isa = select_isa();
  return isa.ok() && isa.value() >= Isa::kAvx512Bf16 && __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

bool holds(const PackedMatrix& matrix, const std::byte* raw) {
  for (const int64_t g : {int64_t{0}, matrix.groups() - 1}) {
    const std::byte* group = matrix.data + g * matrix.group_bytes();
    for (int64_t o = 0; o < matrix.group(); ++o) {
      int64_t total = 0;
      for (int64_t i = 0; i < matrix.inputs; ++i) {
        const int weight = packed_weight(matrix, group, o, i);
        if (weight != raw_weight(matrix, raw, g * matrix.group() + o, i)) return false;
        total += weight;
      }
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
void linear(const PackedMatrix&, const ByteRows&, int, int64_t, int64_t, float*, int64_t) {}
void rms_norm(const float*, const float*, float, int64_t, float*) {}
void add_normed(const float*, const float*, float, float, int64_t, float*) {}
void gated_gelu(const float*, int64_t, float*) {}
void soft_cap(float, int64_t, float*) {}
#endif

}  // namespace tandem
