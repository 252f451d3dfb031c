// The kernels for AVX-512 F, BW, DQ and VL. The target is set here and not by compiler options, after the headers, so
// that inline functions shared with other files stay runnable everywhere.
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/kernels.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

#define TANDEM_ISA avx512
#define TANDEM_LANES 16
#include "kernels/kernels_impl.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace tandem {
const Kernels kAvx512Kernels = {
    avx512::kLanes, 12, false, avx512::attend_item, avx512::transform_head, avx512::store_half, avx512::store_byte};
}  // namespace tandem
#endif
