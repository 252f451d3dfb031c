// Norm, rope and append against their definitions, on every instruction set that this machine has.
#include <cmath>
#include <vector>

#include "check.h"
#include "kernels/rope_norm.h"

using namespace tandem;

namespace {

std::vector<float> ramp(size_t n) {
  std::vector<float> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = std::sin(static_cast<float>(i * i % 977) * 0.37f) * 3.0f;
  return out;
}

}  // namespace

TEST(norm_and_rope_match_the_definition) {
  const int tokens = 3, heads = 2;
  for (Isa isa : available_isas()) {
    for (int dim : {8, 16, 24, 256}) {
      for (int pairs : {0, dim / 8, dim / 2}) {
        const std::vector<float> in = ramp(static_cast<size_t>(tokens * heads * dim)),
                                 weight = ramp(static_cast<size_t>(dim));
        std::vector<float> frequency(static_cast<size_t>(pairs)), cosine(static_cast<size_t>(tokens * pairs)),
            sine(cosine);
        for (int i = 0; i < pairs; ++i)
          frequency[static_cast<size_t>(i)] = std::pow(100.0f, -2.0f * static_cast<float>(i) / static_cast<float>(dim));
        rope_table(frequency.data(), pairs, 5, tokens, cosine.data(), sine.data());
        HeadTransform transform;
        transform.normalise = true, transform.weight = weight.data();
        transform.cosine = cosine.data(), transform.sine = sine.data(), transform.pairs = pairs;
        std::vector<float> out(in.size()), same(in);
        transform_heads(in.data(), tokens, heads, dim, transform, out.data(), isa);
        transform_heads(same.data(), tokens, heads, dim, transform, same.data(), isa);
        CHECK(out == same);
        double worst = 0.0;
        for (int row = 0; row < tokens * heads; ++row) {
          const size_t at = static_cast<size_t>(row * dim), half = static_cast<size_t>(dim / 2);
          double squares = 0.0;
          for (size_t d = 0; d < static_cast<size_t>(dim); ++d) squares += double(in[at + d]) * double(in[at + d]);
          const double factor = 1.0 / std::sqrt(squares / dim + 1e-6);
          for (size_t i = 0; i < half; ++i) {
            const double a = double(in[at + i]) * factor * double(weight[i]),
                         b = double(in[at + half + i]) * factor * double(weight[half + i]);
            const double angle = i < static_cast<size_t>(pairs) ? (5 + row / heads) * double(frequency[i]) : 0.0;
            worst = std::max(worst, std::fabs(double(out[at + i]) - (a * std::cos(angle) - b * std::sin(angle))));
            worst =
                std::max(worst, std::fabs(double(out[at + half + i]) - (b * std::cos(angle) + a * std::sin(angle))));
          }
        }
        CHECK(worst < 1e-5);
      }
    }
  }
}

TEST(append_wraps_and_rounds_to_nearest_half) {
  for (Isa isa : available_isas()) {
    const int dim = 16;
    std::vector<uint16_t> memory(3 * dim, 0x1234);
    KvView view;
    view.base = memory.data(), view.token_stride = view.head_stride = dim * 2, view.ring = 3, view.type = KvType::kF16;
    // Ties to even, the largest half, overflow, subnormals, signed zero.
    const std::vector<float> in = {
        1.0f,  -2.5f,          0.333333343f,   2049.0f,        2051.0f,        65504.0f, 65519.0f, 65520.0f,
        -1e9f, 6.10351562e-5f, 5.96046448e-8f, 2.98023224e-8f, 8.94069672e-8f, -0.0f,    1e-12f,   6.09755516e-5f};
    const std::vector<uint16_t> want = {0x3c00, 0xc100, 0x3555, 0x6800, 0x6802, 0x7bff, 0x7bff, 0x7c00,
                                        0xfc00, 0x0400, 0x0001, 0x0000, 0x0002, 0x8000, 0x0000, 0x03ff};
    append_heads(in.data(), 1, 1, dim, HeadTransform(), view, 7, isa);  // slot 1
    for (size_t i = 0; i < 16; ++i) CHECK_EQ(memory[16 + i], want[i]);
    CHECK(memory[15] == 0x1234 && memory[32] == 0x1234);
  }
}

TEST(append_quantises_each_row_to_bytes) {
  for (Isa isa : available_isas()) {
    const int dim = 16, heads = 2;
    std::vector<int8_t> memory(static_cast<size_t>(heads * 3 * dim), 99);
    std::vector<float> scales(heads * 3, -1.0f);
    KvView view;
    view.base = memory.data(), view.token_stride = dim, view.head_stride = 3 * dim, view.ring = 3;
    view.type = KvType::kI8, view.scales = scales.data(), view.scale_head_stride = 3;
    std::vector<float> in(heads * dim, 0.0f);  // the second head is all zero
    for (int i = 0; i < dim; ++i) in[static_cast<size_t>(i)] = static_cast<float>(i - 10) * 0.5f;  // -5 ... 2.5
    append_heads(in.data(), 1, heads, dim, HeadTransform(), view, 4, isa);                         // slot 1
    CHECK_EQ(scales[1], 5.0f / 127.0f);
    CHECK_EQ(scales[4], 0.0f);
    for (int i = 0; i < dim; ++i) {
      const double exact = (i - 10) * 0.5 * 127.0 / 5.0;
      CHECK(std::fabs(double(memory[static_cast<size_t>(dim + i)]) - exact) <= 0.5001);
      CHECK_EQ(int{memory[static_cast<size_t>(4 * dim + i)]}, 0);
    }
    CHECK(memory[dim] == -127 && memory[dim - 1] == 99 && memory[2 * dim] == 99 && scales[0] < 0 && scales[2] < 0);
  }
}
