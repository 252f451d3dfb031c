// Images: target sizes, the resize against values of the reference, patches and positions, and what is refused.
#include <cstdlib>
#include <string>
#include <vector>

#include "base/cpu_features.h"
#include "base/sha256.h"
#include "check.h"
#include "media/image.h"
#include "media/limits.h"

namespace {

using namespace tandem;

// Noise that any language can repeat: the top byte of a linear congruential generator.
std::vector<uint8_t> noise(int64_t width, int64_t height, uint32_t seed) {
  std::vector<uint8_t> rgb(static_cast<size_t>(3 * width * height));
  uint32_t state = seed;
  for (uint8_t& value : rgb) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<uint8_t>(state >> 24);
  }
  return rgb;
}

template <class T>
std::string hash_of(const std::vector<T>& values) {
  return to_hex(sha256(std::as_bytes(std::span(values)))).substr(0, 16);
}

std::string size_of(int64_t width, int64_t height, int tokens) {
  const auto size = budgeted_size(width, height, tokens);
  return size.ok() ? std::to_string(size.value().width) + "x" + std::to_string(size.value().height) : "error";
}

bool refused(const Status& status, const std::string& word) {
  return status.code() == Code::kInvalidRequest && status.message().find(word) != std::string::npos;
}

// Runs `body` once for every instruction set of this machine.
template <class Body>
void on_every_isa(Body body) {
  for (const Isa isa : available_isas()) {
    setenv("TANDEM_ISA", isa_name(isa), 1);
    body();
  }
  unsetenv("TANDEM_ISA");
}

}  // namespace

TEST(sizes_of_the_specification) {
  const int budgets[] = {70, 140, 280, 560, 1120};
  const struct {
    int64_t width, height;
    const char* sizes[5];
  } rows[] = {
      {224, 224, {"384x384", "528x528", "768x768", "1104x1104", "1584x1584"}},
      {2000, 2000, {"384x384", "528x528", "768x768", "1104x1104", "1584x1584"}},
      {1024, 768, {"432x336", "624x480", "912x672", "1296x960", "1824x1344"}},
      {1920, 1080, {"528x288", "720x384", "1056x576", "1488x816", "2112x1200"}},
      {1024, 256, {"768x192", "1104x240", "1584x384", "2256x528", "3168x768"}},
      {900, 3, {"3360x48", "6720x48", "13440x48", "19632x48", "27792x48"}},
      {3, 900, {"48x3360", "48x6720", "48x13440", "48x19632", "48x27792"}},
      {1, 1, {"384x384", "528x528", "768x768", "1104x1104", "1584x1584"}},
  };
  for (const auto& row : rows) {
    for (int i = 0; i < 5; ++i) CHECK_EQ(size_of(row.width, row.height, budgets[i]), row.sizes[i]);
  }
}

TEST(refuses_sizes_and_budgets) {
  for (const auto& [width, height] : {std::pair<int64_t, int64_t>{0, 1},
                                      {1, 0},
                                      {-1, 5},
                                      {kMaxImageSide + 1, 1},
                                      {kMaxImageSide, kMaxImageSide},
                                      {INT64_MAX, INT64_MAX}}) {
    CHECK(refused(budgeted_size(width, height, 280).status(), "pixels"));
  }
  for (const int tokens : {0, -1, kMaxSoftTokens + 1}) {
    CHECK(refused(budgeted_size(10, 10, tokens).status(), "max_soft_tokens"));
  }
  CHECK(refused(budgeted_size(10, 10, 280, 0).status(), "patch"));
  CHECK(refused(prepare_image(nullptr, 4, 4, 12, 70, PixelScale::kImage).status(), "pixels are missing"));
  for (const int64_t stride : {int64_t{11}, int64_t{-12}, kMaxRowStride + 1}) {  // no pixel is read
    CHECK(refused(check_image(reinterpret_cast<const uint8_t*>(1), 4, 4, stride), "rows are"));
  }
  const auto pixels = noise(4, 4, 1);
  CHECK(refused(prepare_image(pixels.data(), 4, 4, 11, 70, PixelScale::kImage).status(), "rows"));
}

TEST(resize_is_the_reference) {
  // Start of the SHA-256 of what torch 2.13's interpolate(uint8, mode="bicubic", antialias=True) gives, as [H, W, 3].
  const struct {
    int64_t width, height;
    ImageSize to;
    const char* hash;
  } rows[] = {
      {1, 1, {48, 48}, "722a973a55d8d93e"},       {7, 5, {96, 48}, "994d89559144955f"},
      {224, 224, {384, 384}, "f1c02b5d50442dde"}, {900, 3, {3360, 48}, "6be4381c20c444bb"},
      {3, 900, {48, 960}, "dddc8ae3db75f49a"},    {640, 480, {432, 336}, "897a764da8944a11"},
      {333, 1001, {96, 240}, "ad4a1789f53a9c73"}, {200, 100, {200, 48}, "1e0a18b49fc55cb6"},
      {500, 41, {97, 41}, "a297ab001adad1f2"},
  };
  on_every_isa([&] {
    for (const auto& row : rows) {
      const auto rgb = noise(row.width, row.height, 7);
      const auto resized = resize_rgb(rgb.data(), row.width, row.height, 3 * row.width, row.to);
      CHECK(resized.ok());
      CHECK_EQ(hash_of(resized.value()), row.hash);
    }
  });
}

TEST(same_size_is_a_copy) {
  const auto rgb = noise(61, 37, 3);
  const auto same = resize_rgb(rgb.data(), 61, 37, 3 * 61, {61, 37});
  CHECK(same.ok());
  CHECK(same.value() == rgb);
}

TEST(one_colour_stays) {
  on_every_isa([] {
    for (const uint8_t level : {0, 1, 127, 255}) {
      const std::vector<uint8_t> rgb(3 * 50 * 70, level);
      const auto resized = resize_rgb(rgb.data(), 50, 70, 150, {96, 48});
      CHECK(resized.ok());
      CHECK(resized.value() == std::vector<uint8_t>(3 * 96 * 48, level));
    }
  });
}

TEST(patches_and_positions) {
  const auto rgb = noise(100, 60, 5);
  const auto input = prepare_image(rgb.data(), 100, 60, 300, 12, PixelScale::kImage);
  CHECK(input.ok());
  const ImageInput& image = input.value();
  const auto resized = resize_rgb(rgb.data(), 100, 60, 300, {image.width, image.height});
  CHECK(resized.ok());
  const int64_t columns = image.width / 48;
  CHECK(columns > 1 && image.height > 48);
  CHECK_EQ(image.count, columns * (image.height / 48));
  CHECK_EQ(image.patches.size(), static_cast<size_t>(image.count * 6912));
  CHECK_EQ(image.positions.size(), static_cast<size_t>(image.count * 2));
  for (int64_t i = 0; i < image.count; ++i) {
    CHECK_EQ(image.positions[static_cast<size_t>(2 * i)], static_cast<int32_t>(i % columns));
    CHECK_EQ(image.positions[static_cast<size_t>(2 * i + 1)], static_cast<int32_t>(i / columns));
  }
  int64_t wrong = 0;
  for (int64_t y = 0; y < image.height; ++y) {
    for (int64_t x = 0; x < image.width; ++x) {
      for (int64_t c = 0; c < 3; ++c) {
        const int64_t patch = y / 48 * columns + x / 48, value = ((y % 48) * 48 + x % 48) * 3 + c;
        const float expected = static_cast<float>(resized.value()[static_cast<size_t>((y * image.width + x) * 3 + c)]) *
                               0.00392156862745098f;
        wrong += image.patches[static_cast<size_t>(patch * 6912 + value)] != expected;
      }
    }
  }
  CHECK_EQ(wrong, 0);
}

TEST(video_frames_are_divided) {
  std::vector<uint8_t> rgb(3 * 48 * 48);
  for (size_t i = 0; i < rgb.size(); ++i) rgb[i] = static_cast<uint8_t>(i);
  const auto image = prepare_image(rgb.data(), 48, 48, 144, 1, PixelScale::kImage);
  const auto frame = prepare_image(rgb.data(), 48, 48, 144, 1, PixelScale::kVideoFrame);
  CHECK(image.ok() && frame.ok());
  int64_t differ = 0;
  for (size_t i = 0; i < rgb.size(); ++i) {
    CHECK_EQ(frame.value().patches[i], static_cast<float>(rgb[i]) / 255.0f);
    differ += frame.value().patches[i] != image.value().patches[i];
  }
  CHECK(differ > 0);
}

TEST(rows_may_be_apart) {
  const auto packed = noise(30, 20, 9);
  std::vector<uint8_t> apart(20 * 97, 0xee);
  for (size_t y = 0; y < 20; ++y) std::copy_n(&packed[y * 90], 90, &apart[y * 97]);
  const auto a = prepare_image(packed.data(), 30, 20, 90, 70, PixelScale::kImage);
  const auto b = prepare_image(apart.data(), 30, 20, 97, 70, PixelScale::kImage);
  CHECK(a.ok() && b.ok());
  CHECK(a.value().patches == b.value().patches);
}
