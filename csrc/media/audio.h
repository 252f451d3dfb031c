// Recordings for the encoder-free audio projection: mixing and resampling to mono 16 kHz, and the cut into frames.
// Depends on base.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "media/limits.h"

namespace tandem {

// Any rate and channel count to mono 16 kHz, block by block, so that an hour is never in memory as decoded. The mean of
// the channels, then a linear-phase polyphase filter (windowed sinc, Kaiser; flat to 0.913 of the lower Nyquist
// frequency, 110 dB down from 1.0 on), delay removed: sample 0 of the output is at the time of sample 0 of the input.
// Mono 16 kHz passes unchanged. Thread rule: one object, one owner.
class AudioConverter {
 public:
  // kInvalidRequest outside [kMinSampleRate, kMaxSampleRate] and [1, kMaxAudioChannels].
  static Result<AudioConverter> create(int channels, int sample_rate);
  AudioConverter(AudioConverter&&) noexcept;
  AudioConverter& operator=(AudioConverter&&) noexcept;
  ~AudioConverter();

  // interleaved: [n, channels]. Appends to `out` what became final. kInvalidRequest for a length that is no multiple of
  // channels, for a sample that is not finite, and above kMaxAudioSamples of output in all; nothing is appended then.
  Status push(std::span<const float> interleaved, std::vector<float>& out);

  // The end of the recording: appends the rest, so that the output has ceil(n * 16000 / sample_rate) samples in all.
  // The object is then spent.
  Status finish(std::vector<float>& out);

 private:
  struct State;
  explicit AudioConverter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// A recording in one piece. interleaved: [n, channels]. Errors as AudioConverter; 0 samples are refused.
Result<std::vector<float>> to_mono_16k(std::span<const float> interleaved, int channels, int sample_rate);

struct AudioFrames {
  std::vector<float> frames;  // [count, frame]; zeros after the last sample
  int64_t count = 0;          // soft tokens: ceil(samples / frame)
};

// kInvalidRequest for 0 samples, more than kMaxAudioSamples, or a sample that is not finite.
Result<AudioFrames> frame_audio(std::span<const float> mono16k, int frame = kAudioFrame);

}  // namespace tandem
