// The kernels for every CPU of the architecture: SSE2 on x86-64, NEON on Arm64.
#include "kernels/kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#define TANDEM_ISA baseline
#define TANDEM_LANES 4
#include "kernels/kernels_impl.h"

namespace tandem {
const Kernels kBaselineKernels = {
    baseline::kLanes,    4, false, baseline::attend_item, baseline::transform_head, baseline::store_half,
    baseline::store_byte};
}  // namespace tandem
