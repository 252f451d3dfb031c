// Products over packed weights against their definition; every number of rows gives the same bits.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "base/cpu_features.h"
#include "check.h"
#include "kernels/linear.h"
#include "kernels/pack.h"

using namespace tandem;

namespace {

struct Sample {
  std::vector<int8_t> weights;  // [outputs][inputs]
  std::vector<float> scales;    // [outputs][inputs / block], or [outputs]
  std::vector<std::byte> raw, raw_scales, packed;
  PackedMatrix matrix;

  RawRows rows() const { return {raw.data(), raw_scales.data()}; }
  int weight(int64_t output, int64_t input) const {
    return weights[static_cast<size_t>(output * matrix.inputs + input)];
  }
  int64_t scales_per_output() const { return matrix.block == 0 ? 1 : matrix.inputs / matrix.block; }
  float scale(int64_t output, int64_t input) const {
    const int64_t at = matrix.block == 0 ? 0 : input / matrix.block;
    return scales[static_cast<size_t>(output * scales_per_output() + at)];
  }
};

struct Scheme {
  int bits;
  int64_t block;
  bool wide = false;
  bool byte_scales = false;
};
constexpr Scheme kSchemes[] = {{4, 0},
                               {8, 0},
                               {4, 32},
                               {4, 64},
                               {4, 128},
                               {4, 96},
                               {4, 0, true},
                               {4, 32, false, true},
                               {4, 64, false, true},
                               {4, 96, false, true}};

// Of a number that has no more than 10 bits behind the point and no small exponent.
uint16_t to_half(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits >> 13) - (112 << 10));
}

Sample sample(Scheme scheme, int64_t outputs, int64_t inputs) {
  const int bits = scheme.bits;
  Sample s;
  s.matrix = {nullptr, inputs, outputs, bits, scheme.block, scheme.wide, false, scheme.byte_scales};
  std::mt19937 random(7);
  const int most = bits == 4 ? 8 : 127;
  for (int64_t i = 0; i < outputs * inputs; ++i) {
    s.weights.push_back(static_cast<int8_t>(std::uniform_int_distribution<int>(-most, most - 1)(random)));
  }
  // Exact in bfloat16 and in 8 bits.
  for (int64_t i = 0; i < outputs * s.scales_per_output(); ++i) s.scales.push_back(static_cast<float>(1 + i % 5) / 64);
  for (const float scale : s.scales) {
    const uint16_t half = to_half(scale);
    const auto* bytes =
        scheme.block == 0 ? reinterpret_cast<const std::byte*>(&scale) : reinterpret_cast<const std::byte*>(&half);
    s.raw_scales.insert(s.raw_scales.end(), bytes, bytes + (scheme.block == 0 ? 4 : 2));
  }
  s.raw.resize(static_cast<size_t>(outputs * inputs * bits / 8));
  for (size_t i = 0; i < s.weights.size(); ++i) {
    const auto value = static_cast<unsigned>(s.weights[i]);
    if (bits == 8) {
      s.raw[i] = static_cast<std::byte>(value);
    } else {
      s.raw[i / 2] |= static_cast<std::byte>((value & 15u) << 4 * (i % 2));
    }
  }
  // The layout as linear.h describes it.
  s.packed.resize(static_cast<size_t>(s.matrix.bytes()));
  const int64_t group = s.matrix.group(), block = scheme.block;
  for (int64_t g = 0; g < s.matrix.groups(); ++g) {
    std::byte* at = s.packed.data() + g * s.matrix.group_bytes();
    for (int64_t o = 0; o < group; ++o) {
      int32_t sum = 0;
      float scaled = 0;
      for (int64_t i = 0; i < inputs; ++i) {
        const int w = s.weight(g * group + o, i);
        sum -= w;
        scaled -= static_cast<float>(w) * s.scale(g * group + o, i);
        if (bits == 8) {
          at[4 * group + i / 4 * 256 + o * 4 + i % 4] = static_cast<std::byte>(w);
        } else if (scheme.wide) {
          at[4 * group + i / 8 * 256 + o * 4 + i % 4] |=
              static_cast<std::byte>((static_cast<unsigned>(w) & 15u) << (i % 8 >= 4 ? 4 : 0));
        } else {
          const int64_t scales_before = block == 0 ? 0 : i / block * (scheme.byte_scales ? 1 : 2) * group;
          at[4 * group + scales_before + i / 16 * 128 + o * 8 + i % 8] |=
              static_cast<std::byte>((static_cast<unsigned>(w) & 15u) << (i % 16 >= 8 ? 4 : 0));
        }
      }
      sum *= bits == 4 ? 16 : 1;
      std::memcpy(at + 4 * o, &sum, 4);
      if (block == 0) {
        const float scale = s.scale(g * group + o, 0);
        std::memcpy(at + group * (4 + inputs * bits / 8) + 4 * o, &scale, 4);
        continue;
      }
      std::memcpy(at + 4 * o, &scaled, 4);
      if (scheme.byte_scales) {
        // The largest scale is 5/64 = 1.25 / 16: bytes count from 2^-11.
        const float unit = 1.0f / 2048;
        for (int64_t b = 0; b < inputs / block; ++b) {
          const float scale = s.scale(g * group + o, b * block) / unit;
          const int octave = static_cast<int>(std::log2(scale));
          const float part = scale / static_cast<float>(1 << octave) - 1;
          at[group * (4 + (b + 1) * block / 2 + b) + o] =
              static_cast<std::byte>(octave * 32 + static_cast<int>(part * 32));
        }
        const float end = unit / 16;
        std::memcpy(at + s.matrix.group_bytes() - 4 * (group - o), &end, 4);
        continue;
      }
      for (int64_t b = 0; b < inputs / block; ++b) {
        const float scale = s.scale(g * group + o, b * block) / 16;
        std::memcpy(at + group * (4 + (b + 1) * block / 2 + 2 * b) + 2 * o,
                    reinterpret_cast<const std::byte*>(&scale) + 2, 2);
      }
    }
  }
  s.matrix.data = s.packed.data();
  return s;
}

std::vector<float> numbers(size_t n, float size) {
  std::mt19937 random(3);
  std::vector<float> out(n);
  for (float& x : out) x = std::normal_distribution<float>(0.1f, size)(random);
  return out;
}

struct Quantised {
  std::vector<uint8_t> values;
  std::vector<float> scales;
  std::vector<int32_t> zeros;
  ByteRows rows;
  Quantised(const std::vector<float>& in, int count, int64_t size)
      : values(in.size() + static_cast<size_t>(15 * size)),
        scales(static_cast<size_t>(count)),
        zeros(static_cast<size_t>(count)) {
    rows = {values.data(), size, scales.data(), zeros.data()};
    for (int r = 0; r < count; ++r) quantise_row(in.data() + r * size, size, r, rows);
  }
};

}  // namespace

TEST(matrices_are_packed_as_described) {
  for (const Scheme scheme : kSchemes) {
    Sample s = sample(scheme, 192, 384);
    const int64_t row = 384 * scheme.bits / 8, scales = s.scales_per_output() * (scheme.block == 0 ? 4 : 2);
    std::vector<std::byte> group(static_cast<size_t>(s.matrix.group_bytes()));
    for (int64_t g = 0; g < s.matrix.groups(); ++g) {
      const int64_t first = g * s.matrix.group();
      CHECK(pack_group(s.matrix, {s.raw.data() + first * row, s.raw_scales.data() + first * scales}, group.data()));
      CHECK(std::equal(group.begin(), group.end(), s.packed.begin() + g * s.matrix.group_bytes()));
    }
  }
}

TEST(scales_that_no_layout_takes_are_refused) {
  for (const Scheme scheme : kSchemes) {
    Sample s = sample(scheme, 64, 384);
    std::vector<std::byte> group(static_cast<size_t>(s.matrix.group_bytes()));
    s.raw_scales[scheme.block == 0 ? 3 : 1] = std::byte{0x7f};  // not a number, or beyond any
    s.raw_scales[scheme.block == 0 ? 2 : 0] = std::byte{0xff};
    CHECK(!pack_group(s.matrix, s.rows(), group.data()));
  }
}

TEST(scales_of_eight_octaves_and_six_bits_fit_bytes) {
  const auto fit = [](const std::vector<float>& scales) {
    std::vector<uint16_t> halves;
    for (const float scale : scales) halves.push_back(to_half(scale));
    return fit_bytes(reinterpret_cast<const std::byte*>(halves.data()), 1, static_cast<int64_t>(halves.size()));
  };
  CHECK(fit({0.5f, 0.75f, 63.0f / 64, 0.5f / 128, 63.0f / 8192}));
  CHECK(!fit({0.5f, 0.49f / 128}));              // nine octaves
  CHECK(!fit({0.5f, 0.25f * (1 + 1.0f / 64)}));  // seven bits
  const std::vector<std::byte> zero(2);
  CHECK(!fit_bytes(zero.data(), 1, 1));
}

TEST(quantised_rows_are_close_and_keep_zero) {
  if (!linear_available()) return;
  const int64_t size = 192;
  for (const float width : {1e-6f, 1.0f, 1e4f}) {
    const std::vector<float> in = numbers(2 * size, width);
    const Quantised q(in, 2, size);
    for (size_t i = 0; i < in.size(); ++i) {
      const size_t row = i / size;
      const float back = q.scales[row] * static_cast<float>(q.values[i] - q.zeros[row]);
      CHECK(std::fabs(back - in[i]) <= 1.01f * q.scales[row]);
    }
    CHECK(q.zeros[0] >= 0 && q.zeros[0] <= 255);
  }
  const std::vector<float> nothing(64, 0.0f);
  const Quantised q(nothing, 1, 64);
  CHECK_EQ(static_cast<int>(q.values[7]), q.zeros[0]);
}

TEST(products_match_the_definition_for_any_number_of_rows) {
  if (!linear_available()) return;
  // More inputs and rows than AMX takes at a time, and rows that are no whole tiles.
  const int64_t inputs = 1152, outputs = 192;  // whole blocks
  const int most = 299;
  const std::vector<float> in = numbers(static_cast<size_t>(most * inputs), 2.0f);
  const Quantised q(in, most, inputs);
  for (const Scheme scheme : kSchemes) {
    Sample s = sample(scheme, outputs, inputs);
    for (const bool tiles : {false, true}) {
      if (tiles && (available_isas().back() != Isa::kAvx512Amx || scheme.byte_scales)) break;
      s.matrix.tiles = tiles;
      std::vector<float> all(static_cast<size_t>(most * outputs));
      linear(s.matrix, q.rows, most, 0, s.matrix.groups(), all.data(), outputs);
      double worst = 0.0, largest = 0.0;
      for (int r = 0; r < most; ++r) {
        for (int64_t o = 0; o < outputs; ++o) {
          double sum = 0.0;
          for (int64_t i = 0; i < inputs; ++i) {
            const int value = q.values[static_cast<size_t>(r * inputs + i)] - q.zeros[static_cast<size_t>(r)];
            sum += value * s.weight(o, i) * double{s.scale(o, i)};
          }
          const double wanted = sum * q.scales[static_cast<size_t>(r)];
          worst = std::max(worst, std::fabs(wanted - all[static_cast<size_t>(r * outputs + o)]));
          largest = std::max(largest, std::fabs(wanted));
        }
      }
      CHECK(worst < 1e-6 * largest);
      for (const int rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 15, 16, 17, 31, 32, 40, 48, 63, 256, 298, most}) {
        std::vector<float> some(all.size() + 1, -1.0f);
        for (int64_t g = 0; g < s.matrix.groups(); ++g) {
          linear(s.matrix, q.rows, rows, g, g + 1, some.data() + g * s.matrix.group(), outputs);
        }
        CHECK(std::equal(some.begin(), some.begin() + rows * outputs, all.begin()));
        CHECK(some[static_cast<size_t>(rows * outputs)] == -1.0f);
      }
    }
  }
}

TEST(byte_scales_make_the_bits_of_bfloat16) {
  if (!linear_available()) return;
  const std::vector<float> in = numbers(13 * 384, 2.0f);
  const Quantised q(in, 13, 384);
  for (const int64_t block : {32, 64, 96, 128}) {
    const Sample longer = sample({4, block}, 192, 384), shorter = sample({4, block, false, true}, 192, 384);
    std::vector<float> one(13 * 192), other(13 * 192);
    linear(longer.matrix, q.rows, 13, 0, 12, one.data(), 192);
    linear(shorter.matrix, q.rows, 13, 0, 12, other.data(), 192);
    CHECK(one == other);
  }
}

TEST(norms_and_activations_match_their_definitions) {
  if (!linear_available()) return;
  const int64_t size = 128;
  const std::vector<float> x = numbers(size, 3.0f), y = numbers(2 * size, 5.0f), weight(y.begin() + size, y.end());
  double square = 0.0;
  for (float v : x) square += static_cast<double>(v) * v / size;
  const double inverse = 1.0 / std::sqrt(square + 1e-6);
  std::vector<float> normed(size), sum(y.begin(), y.begin() + size), gate = x, capped = x;
  rms_norm(x.data(), weight.data(), 1e-6f, size, normed.data());
  add_normed(x.data(), weight.data(), 1e-6f, 0.7f, size, sum.data());
  gated_gelu(y.data(), size, gate.data());
  soft_cap(2.5f, size - 5, capped.data());
  for (size_t i = 0; i < size; ++i) {
    const double v = x[i], n = v * inverse * weight[i];
    CHECK(std::fabs(normed[i] - n) < 1e-5 * (1.0 + std::fabs(n)));
    CHECK(std::fabs(sum[i] - 0.7 * (y[i] + n)) < 1e-5 * (1.0 + std::fabs(n)));
    const double inner = std::sqrt(2.0 / std::acos(-1.0)) * (v + 0.044715 * v * v * v);
    CHECK(std::fabs(gate[i] - 0.5 * v * (1.0 + std::tanh(inner)) * y[i]) < 1e-5 * (1.0 + std::fabs(v * y[i])));
    const double cap = i < size - 5 ? 2.5 * std::tanh(v / 2.5) : v;
    CHECK(std::fabs(capped[i] - cap) < 1e-5);
  }
}
