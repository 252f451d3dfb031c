#include "kernels/linear.h"

#include "base/cpu_features.h"

namespace tandem {

bool linear_available() {
#if defined(__x86_64__)
  const Result<Isa> isa = select_isa();
  return isa.ok() && isa.value() >= Isa::kAvx512 && __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
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
