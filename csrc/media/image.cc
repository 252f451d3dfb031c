#include "media/image.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "media/limits.h"
#include "media/resize_kernels.h"

namespace tandem {
namespace {

std::string size_text(int64_t width, int64_t height) { return std::to_string(width) + "x" + std::to_string(height); }

Status check_size(const char* what, int64_t width, int64_t height) {
  if (width < 1 || height < 1 || width > kMaxImageSide || height > kMaxImageSide || width * height > kMaxImagePixels) {
    return {Code::kInvalidRequest, std::string(what) + " of " + size_text(width, height) +
                                       " pixels: sides must be 1 to " + std::to_string(kMaxImageSide) +
                                       " and the area at most " + std::to_string(kMaxImagePixels) +
                                       " pixels; make it smaller first"};
  }
  return {};
}

// Resizes row by row and hands each finished row [to.width * 3] to `take(y, row)`. Keeps only the rows that the pass
// down still needs.
template <class Take>
Status resize_rows(const uint8_t* rgb, int64_t width, int64_t height, int64_t row_stride, ImageSize to, Take take) {
  TANDEM_ASSIGN_OR_RETURN(const Isa isa, select_isa());
  const ResizeKernels& kernels = resize_kernels(isa);
  const AxisWeights horizontal = axis_weights(width, to.width), vertical = axis_weights(height, to.height);
  const int64_t row_bytes = 3 * to.width, held = vertical.taps / 2, pairs = (height + 1) / 2;

  std::vector<int16_t> expanded(static_cast<size_t>(((width + 1) / 2 + horizontal.taps / 2) * 16), 0);
  const int64_t pair_bytes = 2 * row_bytes + 2;  // and what the pass across writes beyond
  std::vector<uint8_t> ring(static_cast<size_t>(held * pair_bytes));
  std::vector<const uint8_t*> rows(static_cast<size_t>(held));
  std::vector<uint8_t> done(static_cast<size_t>(row_bytes));

  int64_t next = 0;  // the pair of input rows that has not been resized across yet
  for (int64_t y = 0; y < to.height; ++y) {
    const int64_t first = vertical.first[static_cast<size_t>(y)] / 2;
    const int64_t last = std::min(first + held, pairs) - 1;
    for (; next <= last; ++next) {
      const uint8_t* a = rgb + 2 * next * row_stride;
      const uint8_t* b = 2 * next + 1 < height ? a + row_stride : a;  // a missing last row has weight 0
      kernels.expand(a, b, width, expanded.data());
      kernels.across(expanded.data(), horizontal, &ring[static_cast<size_t>(next % held * pair_bytes)]);
    }
    for (int64_t i = 0; i < held; ++i) {  // pairs beyond the image have weight 0: any memory will do
      rows[static_cast<size_t>(i)] = &ring[static_cast<size_t>(std::min(first + i, last) % held * pair_bytes)];
    }
    kernels.down(rows.data(), &vertical.weight[static_cast<size_t>(y * vertical.taps)], vertical.taps,
                 vertical.precision, row_bytes, done.data());
    take(y, done.data());
  }
  return {};
}

Status out_of_memory(int64_t width, int64_t height) {
  return {Code::kOutOfMemory, "no memory to resize an image of " + size_text(width, height) + " pixels"};
}

}  // namespace

Status check_image(const uint8_t* rgb, int64_t width, int64_t height, int64_t row_stride) {
  TANDEM_RETURN_IF_ERROR(check_size("image", width, height));
  if (rgb == nullptr) return {Code::kInvalidRequest, "image: the pixels are missing; give [height, width, 3] bytes"};
  if (row_stride < 3 * width || row_stride > kMaxRowStride) {
    return {Code::kInvalidRequest, "image rows are " + std::to_string(row_stride) + " bytes apart, but a row of " +
                                       std::to_string(width) + " RGB pixels needs " + std::to_string(3 * width)};
  }
  return {};
}

Result<ImageSize> budgeted_size(int64_t width, int64_t height, int max_soft_tokens, int patch) {
  TANDEM_RETURN_IF_ERROR(check_size("image", width, height));
  if (max_soft_tokens < 1 || max_soft_tokens > kMaxSoftTokens) {
    return Status(Code::kInvalidRequest, "max_soft_tokens is " + std::to_string(max_soft_tokens) +
                                             "; it must be 1 to " + std::to_string(kMaxSoftTokens));
  }
  if (patch < 1 || patch > kImagePatch) {
    return Status(Code::kInvalidRequest,
                  "a patch of " + std::to_string(patch) + " pixels; it must be 1 to " + std::to_string(kImagePatch));
  }
  // In doubles and in this order, as the reference computes it: one rounding more or less can cost a row of patches.
  const int64_t budget = int64_t{max_soft_tokens} * patch * patch;
  const double factor = std::sqrt(static_cast<double>(budget) / static_cast<double>(width * height));
  const auto fitted = [&](int64_t side) {
    return static_cast<int64_t>(std::floor(factor * static_cast<double>(side) / patch)) * patch;
  };
  ImageSize size = {fitted(width), fitted(height)};
  const int64_t longest = int64_t{max_soft_tokens} * patch;
  if (size.height == 0 && size.width != 0) {
    size = {std::min(width / height * patch, longest), patch};
  } else if (size.width == 0 && size.height != 0) {
    size = {patch, std::min(height / width * patch, longest)};
  }
  if (size.width < 1 || size.height < 1 || size.width * size.height > budget) {
    return Status(Code::kInvalidRequest, "an image of " + size_text(width, height) + " pixels does not fit " +
                                             std::to_string(max_soft_tokens) + " soft tokens; crop it");
  }
  return size;
}

Result<std::vector<uint8_t>> resize_rgb(const uint8_t* rgb, int64_t width, int64_t height, int64_t row_stride,
                                        ImageSize to) {
  TANDEM_RETURN_IF_ERROR(check_image(rgb, width, height, row_stride));
  TANDEM_RETURN_IF_ERROR(check_size("resized image", to.width, to.height));
  try {
    std::vector<uint8_t> out(static_cast<size_t>(3 * to.width * to.height));
    TANDEM_RETURN_IF_ERROR(resize_rows(rgb, width, height, row_stride, to, [&](int64_t y, const uint8_t* row) {
      std::copy_n(row, 3 * to.width, &out[static_cast<size_t>(3 * to.width * y)]);
    }));
    return out;
  } catch (const std::bad_alloc&) {
    return out_of_memory(width, height);
  }
}

Result<ImageInput> prepare_image(const uint8_t* rgb, int64_t width, int64_t height, int64_t row_stride,
                                 int max_soft_tokens, PixelScale scale, int patch) {
  TANDEM_RETURN_IF_ERROR(check_image(rgb, width, height, row_stride));
  TANDEM_ASSIGN_OR_RETURN(const ImageSize to, budgeted_size(width, height, max_soft_tokens, patch));
  try {
    const int64_t columns = to.width / patch, run = 3 * patch;  // values of one row of one patch
    ImageInput input;
    input.width = to.width;
    input.height = to.height;
    input.count = columns * (to.height / patch);
    input.patches.resize(static_cast<size_t>(input.count * run * patch));
    input.positions.resize(static_cast<size_t>(input.count * 2));
    for (int64_t i = 0; i < input.count; ++i) {
      input.positions[static_cast<size_t>(2 * i)] = static_cast<int32_t>(i % columns);
      input.positions[static_cast<size_t>(2 * i + 1)] = static_cast<int32_t>(i / columns);
    }
    constexpr float kReciprocal = static_cast<float>(1.0 / 255.0);
    TANDEM_RETURN_IF_ERROR(resize_rows(rgb, width, height, row_stride, to, [&](int64_t y, const uint8_t* row) {
      for (int64_t column = 0; column < columns; ++column, row += run) {
        float* out = &input.patches[static_cast<size_t>(((y / patch * columns + column) * patch + y % patch) * run)];
        if (scale == PixelScale::kImage) {
          for (int64_t i = 0; i < run; ++i) out[i] = static_cast<float>(row[i]) * kReciprocal;
        } else {
          for (int64_t i = 0; i < run; ++i) out[i] = static_cast<float>(row[i]) / 255.0f;
        }
      }
    }));
    return input;
  } catch (const std::bad_alloc&) {
    return out_of_memory(width, height);
  }
}

}  // namespace tandem
