#include "kernels/pack.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace tandem {
namespace {

constexpr int kSignificand = 5;                              // bits of a byte scale behind the point
constexpr int kOctaves = 8;                                  // that byte scales span
constexpr uint32_t kLost = (1u << (23 - kSignificand)) - 1;  // bits of a float's significand that they lack
constexpr int64_t kMostGroup = 64;                           // outputs

template <class T>
T read(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

template <class T>
void write(std::byte* p, T value) {
  std::memcpy(p, &value, sizeof value);
}

float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16, exponent = half >> 10 & 31u, fraction = half & 1023u;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float small = static_cast<float>(fraction) * 0x1p-24f;
  return sign != 0 ? -small : small;
}

// The nearest bfloat16, ties to even, as XNNPACK rounds.
uint16_t float_to_bfloat(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The octave in which the byte scales of an output begin, given the largest of them.
int first_octave(float largest) { return std::ilogb(largest) - (kOctaves - 1); }

// 8 nibbles of `four` bytes, the lowest first, to a byte each.
uint64_t spread(uint32_t four) {
  uint64_t x = four;
  x = (x | x << 16) & 0x0000ffff0000ffffu;
  x = (x | x << 8) & 0x00ff00ff00ff00ffu;
  return (x | x << 4) & 0x0f0f0f0f0f0f0f0fu;
}

// The sum of 8 signed nibbles, a byte each.
int sum_nibbles(uint64_t spread_out) {
  // Moved by 8 they are 0 ... 15: their sum fits a byte.
  const uint64_t moved = spread_out ^ 0x0808080808080808u;
  return static_cast<int>(moved * 0x0101010101010101u >> 56) - 64;
}

// 16 int4 weights of an output, 8 bytes, to a layout's 8 bytes; their sum. `wide`: 4 and 4 share bytes, else 8 and 8.
struct Sixteen {
  uint64_t bytes;
  int sum;
};

Sixteen sixteen_weights(const std::byte* raw, bool wide) {
  const auto all = read<uint64_t>(raw);
  const uint64_t front = spread(static_cast<uint32_t>(all)), back = spread(static_cast<uint32_t>(all >> 32));
  const int sum = sum_nibbles(front) + sum_nibbles(back);
  if (!wide) return {front | back << 4, sum};
  const auto share = [](uint64_t eight) {
    return static_cast<uint32_t>(eight) | static_cast<uint32_t>(eight >> 32) << 4;
  };
  return {share(front) | uint64_t{share(back)} << 32, sum};
}

bool sound(float scale) { return std::isfinite(scale) && scale >= 0.0f; }

// The ends of a group without blocks: sums before, scales behind.
bool pack_ends(const PackedMatrix& matrix, const RawRows& rows, const int64_t* totals, std::byte* out) {
  const int64_t group = matrix.group();
  std::byte* scales = out + group * (4 + matrix.inputs * matrix.bits / 8);
  for (int64_t o = 0; o < group; ++o) {
    const auto scale = read<float>(rows.scales + 4 * o);
    if (!sound(scale)) return false;
    write(out + 4 * o, static_cast<int32_t>(-totals[o] * (matrix.bits == 4 ? 16 : 1)));
    write(scales + 4 * o, scale);
  }
  return true;
}

bool pack_8_bits(const PackedMatrix& matrix, const RawRows& rows, std::byte* out) {
  int64_t totals[kMostGroup] = {};
  std::byte* to = out + 4 * matrix.group();
  for (int64_t o = 0; o < matrix.group(); ++o) {
    const std::byte* from = rows.weights + o * matrix.inputs;
    for (int64_t i = 0; i < matrix.inputs; i += 4) {
      write(to + i * matrix.group() + o * 4, read<uint32_t>(from + i));
      for (int64_t j = i; j < i + 4; ++j) totals[o] += static_cast<int8_t>(from[j]);
    }
  }
  return pack_ends(matrix, rows, totals, out);
}

bool pack_4_bits(const PackedMatrix& matrix, const RawRows& rows, std::byte* out) {
  int64_t totals[kMostGroup] = {};
  const int64_t group = matrix.group();
  std::byte* to = out + 4 * group;
  for (int64_t o = 0; o < group; ++o) {
    const std::byte* from = rows.weights + o * matrix.inputs / 2;
    for (int64_t i = 0; i < matrix.inputs; i += 16) {
      const Sixteen sixteen = sixteen_weights(from + i / 2, matrix.wide);
      totals[o] += sixteen.sum;
      if (matrix.wide) {
        write(to + i * group / 2 + o * 4, static_cast<uint32_t>(sixteen.bytes));
        write(to + (i + 8) * group / 2 + o * 4, static_cast<uint32_t>(sixteen.bytes >> 32));
      } else {
        write(to + i * group / 2 + o * 8, sixteen.bytes);
      }
    }
  }
  return pack_ends(matrix, rows, totals, out);
}

bool pack_blocks(const PackedMatrix& matrix, const RawRows& rows, std::byte* out) {
  const int64_t group = matrix.group(), count = matrix.inputs / matrix.block, size = matrix.byte_scales ? 1 : 2;
  const int64_t stride = group * (matrix.block / 2 + size);
  for (int64_t o = 0; o < group; ++o) {
    const std::byte* from = rows.weights + o * matrix.inputs / 2;
    const std::byte* scales = rows.scales + o * count * 2;
    float largest = 0.0f;
    for (int64_t b = 0; b < count; ++b) {
      const float scale = half_to_float(read<uint16_t>(scales + 2 * b));
      if (!sound(scale) || (matrix.byte_scales && scale == 0.0f)) return false;
      largest = std::max(largest, scale);
    }
    const float unit = matrix.byte_scales ? std::ldexp(1.0f, first_octave(largest)) : 1.0f;
    float total = 0.0f;
    for (int64_t b = 0; b < count; ++b) {
      std::byte* to = out + 4 * group + b * stride;
      int sum = 0;
      for (int64_t i = 0; i < matrix.block; i += 16) {
        const Sixteen sixteen = sixteen_weights(from + (b * matrix.block + i) / 2, false);
        sum += sixteen.sum;
        write(to + i * group / 2 + o * 8, sixteen.bytes);
      }
      std::byte* behind = to + group * matrix.block / 2 + o * size;
      float scale = half_to_float(read<uint16_t>(scales + 2 * b));
      if (matrix.byte_scales) {
        const auto bits = std::bit_cast<uint32_t>(scale / unit);
        const uint32_t stored = (bits - 0x3f800000u) >> (23 - kSignificand);
        if ((bits & kLost) != 0 || stored > 255) return false;
        write(behind, static_cast<uint8_t>(stored));
      } else {
        const uint16_t rounded = float_to_bfloat(scale / 16.0f);
        scale = 16.0f * std::bit_cast<float>(uint32_t{rounded} << 16);
        write(behind, rounded);
      }
      total -= scale * static_cast<float>(sum);
    }
    write(out + 4 * o, total);
    if (matrix.byte_scales) write(out + count * stride + 4 * (group + o), unit / 16.0f);
  }
  return true;
}

}  // namespace

bool fit_bytes(const std::byte* scales, int64_t outputs, int64_t count) {
  for (int64_t o = 0; o < outputs; ++o, scales += 2 * count) {
    float least = INFINITY, largest = 0.0f;
    for (int64_t b = 0; b < count; ++b) {
      const float scale = half_to_float(read<uint16_t>(scales + 2 * b));
      if (!(scale > 0.0f) || !std::isfinite(scale) || (std::bit_cast<uint32_t>(scale) & kLost) != 0) return false;
      least = std::min(least, scale);
      largest = std::max(largest, scale);
    }
    if (std::ilogb(least) < first_octave(largest)) return false;
  }
  return true;
}

bool pack_group(const PackedMatrix& matrix, const RawRows& rows, std::byte* out) {
  if (matrix.bits == 8) return pack_8_bits(matrix, rows, out);
  return matrix.block != 0 ? pack_blocks(matrix, rows, out) : pack_4_bits(matrix, rows, out);
}

}  // namespace tandem
