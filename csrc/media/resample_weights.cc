#include "media/resample_weights.h"

#include <algorithm>
#include <cmath>

namespace tandem {
namespace {

double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a;
  return 0.0;
}

// The largest precision at which `largest` still fits 16 bits signed, and at most 22: sums of 255 * weight fit 32 bits.
int precision_for(double largest) {
  int precision = 0;
  while (precision < 22 && static_cast<int>(0.5 + largest * (1 << (precision + 1))) < 1 << 15) ++precision;
  return precision;
}

}  // namespace

AxisWeights axis_weights(int64_t in, int64_t out) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double widen = std::max(scale, 1.0), shrink = scale >= 1.0 ? 1.0 / scale : 1.0;
  const double support = 2.0 * widen;
  const auto most = static_cast<int64_t>(std::ceil(support)) * 2 + 1;

  AxisWeights axis;
  axis.taps = (most + 2) / 2 * 2;  // one more for an odd first input, then even
  axis.first.resize(static_cast<size_t>(out));
  axis.end.resize(static_cast<size_t>(out));
  axis.weight.assign(static_cast<size_t>(out * axis.taps), 0);
  std::vector<double> exact(static_cast<size_t>(out * most), 0.0);
  double largest = 0.0;
  for (int64_t i = 0; i < out; ++i) {
    const double center = scale * (static_cast<double>(i) + 0.5);
    const int64_t first = std::max<int64_t>(static_cast<int64_t>(center - support + 0.5), 0);
    const int64_t last = std::min(static_cast<int64_t>(center + support + 0.5), in);
    const int64_t count = std::clamp<int64_t>(last - first, 0, most);
    double* weights = &exact[static_cast<size_t>(i * most)];
    double total = 0.0;
    for (int64_t j = 0; j < count; ++j) {
      weights[j] = cubic((static_cast<double>(j + first) - center + 0.5) * shrink);
      total += weights[j];
    }
    for (int64_t j = 0; j < count; ++j) {
      if (total != 0.0) weights[j] /= total;
      largest = std::max(largest, weights[j]);
    }
    axis.first[static_cast<size_t>(i)] = first;
    axis.end[static_cast<size_t>(i)] = first + count;
  }

  axis.precision = precision_for(largest);
  for (int64_t i = 0; i < out; ++i) {
    int64_t& first = axis.first[static_cast<size_t>(i)];
    const int64_t odd = first & 1;
    for (int64_t j = 0; j < axis.end[static_cast<size_t>(i)] - first; ++j) {
      const double scaled = exact[static_cast<size_t>(i * most + j)] * (1 << axis.precision);
      axis.weight[static_cast<size_t>(i * axis.taps + j + odd)] =
          static_cast<int16_t>(static_cast<int>(scaled < 0 ? scaled - 0.5 : scaled + 0.5));
    }
    first -= odd;
  }
  return axis;
}

}  // namespace tandem
