// The kernels for AVX2, FMA and F16C. The target is set here and not by compiler options, after the headers, so that
// inline functions shared with other files stay runnable everywhere.
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/kernels.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#define TANDEM_ISA avx2
#define TANDEM_LANES 8
#include "kernels/kernels_impl.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace tandem {
const Kernels kAvx2Kernels = {avx2::kLanes,    6, false, avx2::attend_item, avx2::transform_head, avx2::store_half,
                              avx2::store_byte};
}  // namespace tandem
#endif
