// What happens to q, k and v between their projections and attention: RMS norm per head, rotary embedding, append to
// the cache.
#pragma once

#include <cstdint>

#include "base/cpu_features.h"
#include "kernels/kv_view.h"

namespace tandem {

// Cosines and sines of T positions, [T][pairs], computed once per step and shared by all layers of a kind. Angles are
// rounded to float like the models' training code does.
void rope_table(const float* inverse_frequency, int pairs, int64_t first_position, int tokens, float* cosine,
                float* sine);

struct HeadTransform {
  bool normalise = false;  // x / rms(x), eps inside the root
  float epsilon = 1e-6f;
  const float* weight =
      nullptr;  // [head_dim], the factor itself (1 + w already added for families that store w); null = 1
  const float* cosine = nullptr;  // [T][pairs] from rope_table(); null = no rotation
  const float* sine = nullptr;
  int pairs = 0;  // dimensions i and i + head_dim / 2 rotate for i < pairs (at most head_dim / 2)
};

// in [T][heads][head_dim] -> out, same shape; in == out is allowed.
void transform_heads(const float* in, int tokens, int heads, int head_dim, const HeadTransform& transform, float* out,
                     Isa isa);

// The same, into the cache rows of tokens first_position ... in the cache's own type.
void append_heads(const float* in, int tokens, int heads, int head_dim, const HeadTransform& transform,
                  const KvView& cache, int64_t first_position, Isa isa);

}  // namespace tandem
