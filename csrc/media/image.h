// An image or video frame for the encoder-free vision embedder: budgeted resize, patches, positions. Bit-exact to the
// reference: torchvision's bicubic antialiased resize of uint8, then the processor of the model.
// Depends on base. Thread rule: pure functions, callable from any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"

namespace tandem {

struct ImageSize {
  int64_t width = 0, height = 0;  // pixels
};

constexpr int kImagePatch = 48;  // pixels per side of a patch: one soft token

struct ImageInput {
  std::vector<float> patches;      // [count, patch * patch * 3]: row, column, channel (R, G, B); 0 to 1
  std::vector<int32_t> positions;  // [count, 2]: x = column, y = row of the patch in the grid; y is the outer loop
  int64_t count = 0;               // soft tokens: (width / patch) * (height / patch)
  int64_t width = 0, height = 0;   // pixels, after the resize
};

// How a pixel becomes a float: the two differ in the last bit.
enum class PixelScale {
  kImage,       // value * (1 / 255), the factor rounded to float
  kVideoFrame,  // value / 255
};

// kInvalidRequest unless rgb [height, width, 3], with rows row_stride bytes apart, can be an image: a side that is not
// in [1, kMaxImageSide], an area over kMaxImagePixels, no pixels, or rows that overlap. Reads no pixel.
Status check_image(const uint8_t* rgb, int64_t width, int64_t height, int64_t row_stride);

// The size to which an image of width x height is resized, up or down: the largest multiples of `patch` that keep the
// aspect ratio about and need at most max_soft_tokens patches. kInvalidRequest when a side is not in
// [1, kMaxImageSide], the area is over kMaxImagePixels, or max_soft_tokens is not in [1, kMaxSoftTokens].
Result<ImageSize> budgeted_size(int64_t width, int64_t height, int max_soft_tokens, int patch = kImagePatch);

// rgb: [height, width, 3] bytes, rows row_stride bytes apart. The result is packed: [to.height, to.width, 3].
Result<std::vector<uint8_t>> resize_rgb(const uint8_t* rgb, int64_t width, int64_t height, int64_t row_stride,
                                        ImageSize to);

// Resize to budgeted_size() and cut into patches. rgb as in resize_rgb().
Result<ImageInput> prepare_image(const uint8_t* rgb, int64_t width, int64_t height, int64_t row_stride,
                                 int max_soft_tokens, PixelScale scale, int patch = kImagePatch);

}  // namespace tandem
