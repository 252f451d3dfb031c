// How the kernels see one layer's cached K or V: a base pointer and strides, so that the cache is free to choose its
// layout.
#pragma once

#include <cstdint>

namespace tandem {

enum class KvType : int {
  kF32 = 0,
  kF16 = 1,
  kI8 = 2,  // symmetric: value = scale of the row * integer in -127 ... 127
};

constexpr int64_t kv_element_bytes(KvType type) { return type == KvType::kF32 ? 4 : type == KvType::kF16 ? 2 : 1; }

// Row (token, head) starts at base + slot(token) * token_stride + head * head_stride (bytes) and holds head_dim values.
struct KvView {
  void* base = nullptr;
  int64_t token_stride = 0;
  int64_t head_stride = 0;
  int64_t ring = 0;  // 0 = linear: slot(token) = token; else slot(token) = token % ring
  KvType type = KvType::kF32;
  float* scales = nullptr;        // kI8 only: one per row, at scales[head * scale_head_stride + slot(token)]
  int64_t scale_head_stride = 0;  // floats

  int64_t slot(int64_t token) const { return ring > 0 ? token % ring : token; }
  void* row(int64_t token, int head) const {
    return static_cast<char*>(base) + slot(token) * token_stride + head * head_stride;
  }
  float* scale(int64_t token, int head) const { return scales + head * scale_head_stride + slot(token); }
};

}  // namespace tandem
