// How the kernels see one layer's cached K or V: memory and strides, so that the cache is free to choose its layout.
#pragma once

#include <cstdint>

namespace tandem {

enum class KvType : int {
  kF32 = 0,
  kF16 = 1,
  kI8 = 2,  // symmetric: value = scale of the row * integer in -127 ... 127
};

constexpr int64_t kv_element_bytes(KvType type) { return type == KvType::kF32 ? 4 : type == KvType::kF16 ? 2 : 1; }

// Row (token, head) holds head_dim values. Without pages it starts at base + slot(token) * token_stride + head *
// head_stride (bytes). With pages, slot s is slot s % page_slots of pages[s / page_slots], whose memory stands for
// `base`; keys that follow each other across the end of a page are read in two blocks.
struct KvView {
  void* base = nullptr;
  int64_t token_stride = 0;
  int64_t head_stride = 0;
  int64_t ring = 0;  // 0 = linear: slot(token) = token; else slot(token) = token % ring
  KvType type = KvType::kF32;
  float* scales = nullptr;        // kI8 only: one per row, at scales[head * scale_head_stride + slot(token)]
  int64_t scale_head_stride = 0;  // floats

  char* const* pages = nullptr;  // if set, `base` and `scales` are null
  int64_t page_slots = 0;
  int64_t page_offset = 0;         // bytes from the start of a page to its first row
  int64_t page_scales_offset = 0;  // ... and to its first scale

  // Always inlined: a copy of its own, compiled for a newer instruction set, could be linked into code for an older
  // one.
  [[gnu::always_inline]] int64_t slot(int64_t token) const { return ring > 0 ? token % ring : token; }
  [[gnu::always_inline]] void* row(int64_t token, int head) const {
    const int64_t at = slot(token);
    if (!pages) return static_cast<char*>(base) + at * token_stride + head * head_stride;
    return pages[at / page_slots] + page_offset + at % page_slots * token_stride + head * head_stride;
  }
  [[gnu::always_inline]] float* scale(int64_t token, int head) const {
    const int64_t at = slot(token);
    if (!pages) return scales + head * scale_head_stride + at;
    float* first = reinterpret_cast<float*>(pages[at / page_slots] + page_scales_offset);
    return first + head * scale_head_stride + at % page_slots;
  }
  // How many tokens from `token` on have their rows at multiples of token_stride behind its own.
  [[gnu::always_inline]] int64_t contiguous(int64_t token) const {
    const int64_t at = slot(token);
    int64_t count = ring > 0 ? ring - at : INT64_MAX;
    if (pages && page_slots - at % page_slots < count) count = page_slots - at % page_slots;
    return count;
  }
};

}  // namespace tandem
