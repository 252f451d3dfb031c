// How the kernels see one layer's cached K or V: a base pointer and strides, so that the cache is free to choose its
// layout.
#pragma once

#include <cstdint>

namespace tandem {

enum class KvType : int { kF32 = 0, kF16 = 1 };

// Row (token, head) starts at base + slot(token) * token_stride + head * head_stride (bytes) and holds head_dim values.
struct KvView {
  void* base = nullptr;
  int64_t token_stride = 0;
  int64_t head_stride = 0;
  int64_t ring = 0;  // 0 = linear: slot(token) = token; else slot(token) = token % ring
  KvType type = KvType::kF32;

  void* row(int64_t token, int head) const {
    const int64_t slot = ring > 0 ? token % ring : token;
    return static_cast<char*>(base) + slot * token_stride + head * head_stride;
  }
};

}  // namespace tandem
