#include "media/audio_kernels.h"

namespace tandem {
namespace {

// Vectors for loads from anywhere. In structs, as template arguments lose their attributes.
struct Narrow {
  typedef float Vec __attribute__((vector_size(16), aligned(4), may_alias));
};
struct Wide {
  typedef float Vec __attribute__((vector_size(32), aligned(4), may_alias));
};

// One source for all instruction sets: `Width` is that of the set that this is inlined into.
template <class Width>
__attribute__((always_inline)) inline float dot(const float* a, const float* b, int64_t n) {
  typedef typename Width::Vec Vec;
  constexpr int64_t kLanes = sizeof(Vec) / sizeof(float), kSums = 4;
  static_assert(kDotStep % (kLanes * kSums) == 0);
  Vec sums[kSums] = {};
  for (int64_t i = 0; i < n; i += kLanes * kSums) {
    for (int64_t k = 0; k < kSums; ++k) {
      sums[k] += *reinterpret_cast<const Vec*>(a + i + k * kLanes) * *reinterpret_cast<const Vec*>(b + i + k * kLanes);
    }
  }
  const Vec sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  float total = (sum[0] + sum[2]) + (sum[1] + sum[3]);
  if constexpr (kLanes == 8) total += (sum[4] + sum[6]) + (sum[5] + sum[7]);
  return total;
}

float dot_baseline(const float* a, const float* b, int64_t n) { return dot<Narrow>(a, b, n); }
#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) float dot_avx2(const float* a, const float* b, int64_t n) {
  return dot<Wide>(a, b, n);
}
#endif

}  // namespace

Dot dot_for([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx2) return dot_avx2;
#endif
  return dot_baseline;
}

}  // namespace tandem
