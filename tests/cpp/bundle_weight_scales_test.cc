// Scales of a model's matrices: found by their buffer, in the flatbuffer or in a buffer of their own; refused when they
// are not there, whatever the bytes say.
#include <random>
#include <string>

#include "bundle/weight_scales.h"
#include "bundle_fixture.h"
#include "check.h"

using namespace tandem;
using namespace fixture;

namespace {

constexpr uint64_t kWeights = 4096, kScales = 8192, kEnd = 12288;

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span<const char>(text)); }

FlatNode tensor(uint32_t buffer, FlatNode quantization) { return table({{2, raw(buffer)}}, {quantization.at(4)}); }

FlatNode blockwise(int32_t scale_tensor) {
  const FlatNode details = table({{0, raw(scale_tensor)}, {2, raw(int32_t{32})}});
  return table({{4, raw(uint8_t{2})}}, {details.at(5)});
}

// Buffer 1: a matrix with three scales in the flatbuffer; buffer 2: one with blocks, whose scales are buffer 3.
std::string model(int32_t scale_tensor = 2, uint64_t scale_bytes = 64) {
  const FlatNode channels = table({}, {scalars<float>({0.5f, 0.25f, 2.0f}).at(2)});
  const FlatNode graph =
      table({}, {tables({tensor(1, channels), tensor(2, blockwise(scale_tensor)), tensor(3, table({}))}).at(0)});
  const auto place = [](uint64_t offset, uint64_t bytes) { return table({{1, raw(offset)}, {2, raw(bytes)}}); };
  const FlatNode buffers =
      tables({table({}), place(kWeights, 96), place(kWeights + 128, 256), place(kScales, scale_bytes)});
  std::string out = FlatWriter::write(table({}, {tables({graph}).at(2), buffers.at(4)}), "TFL3");
  out.resize(kEnd, '\0');
  return out;
}

}  // namespace

TEST(scales_are_found_by_their_buffer) {
  const std::string text = model();
  const auto found = find_scales(bytes_of(text), {1, 2});
  CHECK(found.ok());
  const WeightScales channels = found.value().at(1), blocks = found.value().at(2);
  CHECK_EQ(channels.bytes, 12u);
  float second = 0;
  std::memcpy(&second, text.data() + channels.offset + 4, 4);
  CHECK_EQ(second, 0.25f);
  CHECK_EQ(blocks.offset, kScales);
  CHECK_EQ(blocks.bytes, 64u);
}

TEST(absent_scales_are_an_error) {
  for (const std::string& text : {model(7), model(-1), model(2, kEnd), std::string(64, '\0'), std::string()}) {
    CHECK(find_scales(bytes_of(text), {2}).status().code() == Code::kBundle);
  }
  const std::string text = model();
  CHECK(!find_scales(bytes_of(text), {9}).ok());
  CHECK(!find_scales(bytes_of(text), {3}).ok());  // a tensor without scales
}

TEST(no_damage_is_followed_outside) {
  const std::string sound = model();
  std::mt19937 random(5);
  for (int round = 0; round < 20000; ++round) {
    std::string text = sound;
    for (int i = 0; i < 3; ++i) text[random() % 512] = static_cast<char>(random());
    const auto found = find_scales(bytes_of(text), {1, 2});
    if (!found.ok()) continue;
    for (const auto& [buffer, scales] : found.value()) {
      CHECK(scales.offset <= text.size() && scales.bytes <= text.size() - scales.offset);
    }
  }
}
