// Audio: mixing, the sample-rate conversion (flat, no aliases, no delay, any block size), frames, and what is refused.
#include <cmath>
#include <cstdlib>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "base/cpu_features.h"
#include "check.h"
#include "media/audio.h"

namespace {

using namespace tandem;

bool refused(const Status& status, const std::string& word) {
  return status.code() == Code::kInvalidRequest && status.message().find(word) != std::string::npos;
}

std::vector<float> sine(double frequency, int rate, int64_t samples) {
  std::vector<float> wave(static_cast<size_t>(samples));
  for (size_t i = 0; i < wave.size(); ++i) {
    wave[i] = static_cast<float>(std::sin(2 * std::numbers::pi * frequency * static_cast<double>(i) / rate));
  }
  return wave;
}

// Level in dB of what remains of `wave` (16 kHz) after subtracting `expected`, away from the ends.
double level(const std::vector<float>& wave, const std::vector<float>& expected) {
  double sum = 0.0;
  const size_t margin = 1000;
  for (size_t i = margin; i + margin < wave.size(); ++i) {
    const double difference = wave[i] - (expected.empty() ? 0.0 : expected[i]);
    sum += difference * difference;
  }
  return 10 * std::log10(2 * sum / static_cast<double>(wave.size() - 2 * margin) + 1e-20);
}

constexpr int kRates[] = {8000, 11025, 12000, 22050, 24000, 32000, 44100, 44101, 48000, 88200, 96000, 176400, 192000};

}  // namespace

TEST(tones_below_pass_unchanged_and_in_time) {
  for (const int rate : kRates) {
    const double nyquist = std::min(rate, 16000) / 2.0;
    for (const double part : {0.01, 0.3, 0.6, 0.9}) {
      const auto converted = to_mono_16k(sine(part * nyquist, rate, rate / 2), 1, rate);
      CHECK(converted.ok());
      CHECK_EQ(converted.value().size(), 8000u);
      CHECK(level(converted.value(), sine(part * nyquist, 16000, 8000)) < -90);
    }
  }
}

TEST(tones_above_vanish) {
  for (const int rate : kRates) {
    if (rate <= 16000) continue;
    for (const double part : {0.01, 0.2, 0.5, 0.9}) {
      const double frequency = 8000 + part * (rate / 2.0 - 8000);
      const auto converted = to_mono_16k(sine(frequency, rate, rate / 2), 1, rate);
      CHECK(converted.ok());
      CHECK(level(converted.value(), {}) < -100);
    }
  }
}

TEST(baseline_converts_as_well) {
  setenv("TANDEM_ISA", isa_name(Isa::kBaseline), 1);
  const auto converted = to_mono_16k(sine(3000, 44100, 22050), 1, 44100);
  unsetenv("TANDEM_ISA");
  CHECK(converted.ok());
  CHECK(level(converted.value(), sine(3000, 16000, 8000)) < -90);
}

TEST(a_constant_stays) {
  for (const int rate : kRates) {
    const auto converted = to_mono_16k(std::vector<float>(static_cast<size_t>(rate), 0.5f), 1, rate);
    CHECK(converted.ok());
    for (size_t i = 1000; i < 15000; ++i) CHECK(std::abs(converted.value()[i] - 0.5f) < 1e-6f);
  }
}

TEST(length_is_rounded_up) {
  for (const int rate : {8000, 11025, 16000, 44100, 44101, 192000}) {
    for (const int64_t samples : {1, 2, 639, 640, 641, 12345}) {
      const auto converted = to_mono_16k(std::vector<float>(static_cast<size_t>(samples), 0.1f), 1, rate);
      CHECK(converted.ok());
      CHECK_EQ(static_cast<int64_t>(converted.value().size()), (samples * 16000 + rate - 1) / rate);
    }
  }
}

TEST(blocks_of_any_size_give_the_same) {
  for (const int rate : {8000, 16000, 44100, 44101}) {
    std::vector<float> stereo;
    for (int i = 0; i < 40000; ++i) stereo.push_back(static_cast<float>((i * 7919) % 2001 - 1000) / 1000.0f);
    const auto whole = to_mono_16k(stereo, 2, rate);
    CHECK(whole.ok());
    auto converter = AudioConverter::create(2, rate);
    CHECK(converter.ok());
    std::vector<float> pieces;
    size_t at = 0;
    for (size_t frames = 0; at < stereo.size(); frames = (frames * 5 + 3) % 4001) {
      const size_t count = std::min(2 * frames, stereo.size() - at);
      CHECK(converter.value().push(std::span(stereo).subspan(at, count), pieces).ok());
      at += count;
    }
    CHECK(converter.value().finish(pieces).ok());
    CHECK(pieces == whole.value());
  }
}

TEST(channels_are_averaged) {
  for (int channels = 1; channels <= kMaxAudioChannels; ++channels) {
    std::vector<float> interleaved, expected;
    for (int i = 0; i < 100; ++i) {
      float sum = 0;
      for (int c = 0; c < channels; ++c) {
        interleaved.push_back(static_cast<float>((i * 31 + c * 17) % 64) / 64.0f);
        sum += interleaved.back();
      }
      expected.push_back(sum / static_cast<float>(channels));
    }
    const auto mono = to_mono_16k(interleaved, channels, 16000);
    CHECK(mono.ok());
    CHECK(mono.value() == expected);
  }
}

TEST(frames_are_padded) {
  for (const auto& [samples, count] : {std::pair<size_t, int64_t>{1, 1}, {639, 1}, {640, 1}, {641, 2}, {16000, 25}}) {
    std::vector<float> wave(samples);
    for (size_t i = 0; i < samples; ++i) wave[i] = static_cast<float>(i + 1);
    const auto framed = frame_audio(wave);
    CHECK(framed.ok());
    CHECK_EQ(framed.value().count, count);
    CHECK_EQ(framed.value().frames.size(), static_cast<size_t>(count * 640));
    for (size_t i = 0; i < framed.value().frames.size(); ++i) {
      CHECK_EQ(framed.value().frames[i], i < samples ? wave[i] : 0.0f);
    }
  }
}

TEST(refuses_bad_audio) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinite = std::numeric_limits<float>::infinity();
  const std::vector<float> fine(100, 0.1f);
  CHECK(refused(frame_audio({}).status(), "0 samples"));
  CHECK(refused(frame_audio(fine, 0).status(), "frame"));
  CHECK(refused(to_mono_16k({}, 1, 16000).status(), "0 samples"));
  CHECK(refused(to_mono_16k(fine, 3, 16000).status(), "no multiple"));
  for (const int channels : {0, -1, kMaxAudioChannels + 1}) {
    CHECK(refused(to_mono_16k(fine, channels, 16000).status(), "channels"));
  }
  for (const int rate : {0, -1, kMinSampleRate - 1, kMaxSampleRate + 1}) {
    CHECK(refused(to_mono_16k(fine, 1, rate).status(), "Hz"));
  }
  for (const float bad : {nan, infinite, -infinite}) {
    auto broken = fine;
    broken[42] = bad;
    CHECK(refused(frame_audio(broken).status(), "sample 42"));
    CHECK(refused(to_mono_16k(broken, 2, 44100).status(), "sample 21"));
  }
}

TEST(a_refused_block_changes_nothing) {
  auto converter = AudioConverter::create(1, 16000);
  CHECK(converter.ok());
  std::vector<float> out;
  CHECK(converter.value().push(std::vector<float>(3, 1.0f), out).ok());
  CHECK(!converter.value().push(std::vector<float>{1.0f, std::numeric_limits<float>::quiet_NaN()}, out).ok());
  CHECK_EQ(out.size(), 3u);
}
