// Norm, rope and append, over the per-instruction-set functions of kernels_impl.h.
#include "kernels/rope_norm.h"

#include <cmath>
#include <vector>

#include "kernels/kernels.h"

namespace tandem {

void rope_table(const float* inverse_frequency, int pairs, int64_t first_position, int tokens, float* cosine,
                float* sine) {
  for (int t = 0; t < tokens; ++t) {
    const float position = static_cast<float>(first_position + t);
    for (int i = 0; i < pairs; ++i) {
      const float angle = position * inverse_frequency[i];
      cosine[static_cast<int64_t>(t) * pairs + i] = std::cos(angle);
      sine[static_cast<int64_t>(t) * pairs + i] = std::sin(angle);
    }
  }
}

void transform_heads(const float* in, int tokens, int heads, int head_dim, const HeadTransform& transform, float* out,
                     Isa isa) {
  const Kernels& kernels = kernels_for(isa, head_dim);
  for (int64_t row = 0; row < static_cast<int64_t>(tokens) * heads; ++row) {
    kernels.transform_head(in + row * head_dim, head_dim, transform, static_cast<int>(row / heads),
                           out + row * head_dim);
  }
}

void append_heads(const float* in, int tokens, int heads, int head_dim, const HeadTransform& transform,
                  const KvView& cache, int64_t first_position, Isa isa) {
  const Kernels& kernels = kernels_for(isa, head_dim);
  std::vector<float> row(cache.type == KvType::kF32 ? 0 : static_cast<size_t>(head_dim));
  for (int t = 0; t < tokens; ++t) {
    for (int head = 0; head < heads; ++head) {
      const float* source = in + (static_cast<int64_t>(t) * heads + head) * head_dim;
      void* target = cache.row(first_position + t, head);
      if (cache.type == KvType::kF32) {
        kernels.transform_head(source, head_dim, transform, t, static_cast<float*>(target));
      } else {
        kernels.transform_head(source, head_dim, transform, t, row.data());
        if (cache.type == KvType::kF16) {
          kernels.store_half(row.data(), head_dim, static_cast<uint16_t*>(target));
        } else {
          *cache.scale(first_position + t, head) =
              kernels.store_byte(row.data(), head_dim, static_cast<int8_t*>(target));
        }
      }
    }
  }
}

}  // namespace tandem
