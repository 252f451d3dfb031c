#include "media/audio.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <new>
#include <numbers>
#include <numeric>
#include <string>

#include "media/audio_kernels.h"

namespace tandem {
namespace {

constexpr double kPassband = 0.913;       // of the lower Nyquist frequency, at which the stop band begins
constexpr double kAttenuation = 110.0;    // dB
constexpr int64_t kMostPhases = 1'024;    // rates that need more interpolate between kCoarsePhases
constexpr int64_t kCoarsePhases = 512;    // linear interpolation between them is off by less than -105 dB
constexpr int64_t kBlockFrames = 16'384;  // mixed and filtered at a time: stays in the cache

// Index of the first sample that is not finite, or -1.
int64_t find_non_finite(std::span<const float> samples) {
  constexpr uint32_t kExponent = 0x7f800000u;
  const auto broken = [](float x) { return (std::bit_cast<uint32_t>(x) & kExponent) == kExponent; };
  uint32_t any = 0;
  for (const float x : samples) any |= broken(x) ? 1u : 0u;
  if (any == 0) return -1;
  return std::find_if(samples.begin(), samples.end(), broken) - samples.begin();
}

Status non_finite(int64_t sample) {
  return {Code::kInvalidRequest, "audio: sample " + std::to_string(sample) +
                                     " is not a finite number; replace NaN and infinities before handing audio over"};
}

Status too_long() {
  return {Code::kInvalidRequest,
          "audio: more than " + std::to_string(kMaxAudioSeconds) + " seconds; cut the recording into parts"};
}

// Modified Bessel function of the first kind, order 0, by its power series.
double bessel_i0(double x) {
  double sum = 1.0, term = 1.0;
  for (int k = 1; term > 1e-14 * sum; ++k) {
    term *= (x / (2.0 * k)) * (x / (2.0 * k));
    sum += term;
  }
  return sum;
}

// A polyphase low pass for input samples of `rate`: taps[phase][k] weighs input sample k of the window for an output at
// phase / phases between the two middle samples. One more phase than `phases`, for interpolation.
struct Filter {
  int64_t phases = 0, taps = 0;
  std::vector<float> table;  // [phases + 1, taps]
};

Filter make_filter(int sample_rate, int64_t phases) {
  // In cycles per input sample. Kaiser's formulas for the length and the shape of the window.
  const double nyquist = 0.5 * std::min(1.0, static_cast<double>(kAudioRate) / sample_rate);
  const double cutoff = nyquist * (1.0 + kPassband) / 2.0, transition = nyquist * (1.0 - kPassband);
  const double beta = 0.1102 * (kAttenuation - 8.7);
  const double length = (kAttenuation - 7.95) / (14.36 * transition), half = length / 2.0;

  Filter filter;
  filter.phases = phases;
  filter.taps = (static_cast<int64_t>(length) + kDotStep) / kDotStep * kDotStep;
  filter.table.resize(static_cast<size_t>((phases + 1) * filter.taps));
  std::vector<double> row(static_cast<size_t>(filter.taps));
  for (int64_t phase = 0; phase <= phases; ++phase) {
    double total = 0.0;
    for (int64_t k = 0; k < filter.taps; ++k) {
      const double t =
          static_cast<double>(phase) / static_cast<double>(phases) + static_cast<double>(filter.taps / 2 - 1 - k);
      const double x = 2.0 * cutoff * t * std::numbers::pi, edge = t / half;
      const double sinc = x == 0.0 ? 1.0 : std::sin(x) / x;
      const double window = std::abs(edge) < 1.0 ? bessel_i0(beta * std::sqrt(1.0 - edge * edge)) : 0.0;
      row[static_cast<size_t>(k)] = sinc * window;
      total += sinc * window;
    }
    for (int64_t k = 0; k < filter.taps; ++k) {  // every phase passes a constant unchanged
      filter.table[static_cast<size_t>(phase * filter.taps + k)] =
          static_cast<float>(row[static_cast<size_t>(k)] / total);
    }
  }
  return filter;
}

// The mean of the channels: summed in order, then divided. Appends to `out`.
void mix(const float* interleaved, int64_t frames, int channels, std::vector<float>& out) {
  const size_t start = out.size();
  out.resize(start + static_cast<size_t>(frames));
  float* mono = out.data() + start;
  if (channels == 1) {
    std::copy_n(interleaved, frames, mono);
  } else if (channels == 2) {  // the usual case, in vectors
    for (int64_t i = 0; i < frames; ++i) mono[i] = (interleaved[2 * i] + interleaved[2 * i + 1]) / 2.0f;
  } else {
    for (int64_t i = 0; i < frames; ++i, interleaved += channels) {
      float sum = interleaved[0];
      for (int c = 1; c < channels; ++c) sum += interleaved[c];
      mono[i] = sum / static_cast<float>(channels);
    }
  }
}

}  // namespace

struct AudioConverter::State {
  int channels = 1;
  int sample_rate = kAudioRate;
  int64_t up = 1, down = 1;  // output sample n is at input time n * down / up
  Filter filter;             // empty at kAudioRate
  Dot dot = nullptr;

  std::vector<float> mono;             // input at sample_rate that is still needed, from `mono_start` on
  int64_t mono_start = 0;              // negative: the zeros before the recording
  int64_t frames_in = 0;               // frames pushed
  int64_t samples_out = 0;             // samples appended
  int64_t at_sample = 0, at_part = 0;  // input time of the next output: at_sample + at_part / up

  int64_t total_for(int64_t frames) const { return (frames * up + down - 1) / down; }
  void filter_to(int64_t total, std::vector<float>& out);
};

// Appends the outputs below `total` whose window is in `mono`, then forgets the input before the next window.
void AudioConverter::State::filter_to(int64_t total, std::vector<float>& out) {
  const int64_t taps = filter.taps, before = taps / 2 - 1, after = taps / 2;
  const int64_t available = mono_start + static_cast<int64_t>(mono.size());
  const int64_t step = down / up, step_part = down % up;
  const double phase_scale = static_cast<double>(filter.phases) / static_cast<double>(up);
  for (; samples_out < total && at_sample + after < available; ++samples_out) {
    const float* window = mono.data() + (at_sample - before - mono_start);
    if (filter.phases == up) {
      out.push_back(dot(window, &filter.table[static_cast<size_t>(at_part * taps)], taps));
    } else {
      const double place = static_cast<double>(at_part) * phase_scale;
      const auto phase = std::min(static_cast<int64_t>(place), filter.phases - 1);
      const auto beyond = static_cast<float>(place - static_cast<double>(phase));
      const float* row = &filter.table[static_cast<size_t>(phase * taps)];
      out.push_back((1.0f - beyond) * dot(window, row, taps) + beyond * dot(window, row + taps, taps));
    }
    at_sample += step;
    at_part += step_part;
    if (at_part >= up) {
      at_part -= up;
      ++at_sample;
    }
  }
  const int64_t spent = std::clamp<int64_t>(at_sample - before - mono_start, 0, static_cast<int64_t>(mono.size()));
  mono.erase(mono.begin(), mono.begin() + spent);
  mono_start += spent;
}

AudioConverter::AudioConverter(std::unique_ptr<State> state) : state_(std::move(state)) {}
AudioConverter::AudioConverter(AudioConverter&&) noexcept = default;
AudioConverter& AudioConverter::operator=(AudioConverter&&) noexcept = default;
AudioConverter::~AudioConverter() = default;

Result<AudioConverter> AudioConverter::create(int channels, int sample_rate) {
  if (channels < 1 || channels > kMaxAudioChannels) {
    return Status(Code::kInvalidRequest, "audio of " + std::to_string(channels) + " channels; 1 to " +
                                             std::to_string(kMaxAudioChannels) + " are supported: mix it first");
  }
  if (sample_rate < kMinSampleRate || sample_rate > kMaxSampleRate) {
    return Status(Code::kInvalidRequest, "audio of " + std::to_string(sample_rate) + " Hz; rates of " +
                                             std::to_string(kMinSampleRate) + " to " + std::to_string(kMaxSampleRate) +
                                             " Hz are supported: resample it first");
  }
  TANDEM_ASSIGN_OR_RETURN(const Isa isa, select_isa());
  try {
    auto state = std::make_unique<State>();
    state->channels = channels;
    state->sample_rate = sample_rate;
    state->dot = dot_for(isa);
    if (sample_rate != kAudioRate) {
      const int common = std::gcd(sample_rate, kAudioRate);
      state->up = kAudioRate / common;
      state->down = sample_rate / common;
      state->filter = make_filter(sample_rate, state->up <= kMostPhases ? state->up : kCoarsePhases);
      state->mono.assign(static_cast<size_t>(state->filter.taps / 2 - 1), 0.0f);
      state->mono_start = -static_cast<int64_t>(state->mono.size());
    }
    return AudioConverter(std::move(state));
  } catch (const std::bad_alloc&) {
    return Status(Code::kOutOfMemory, "no memory for the sample-rate conversion");
  }
}

Status AudioConverter::push(std::span<const float> interleaved, std::vector<float>& out) {
  State& state = *state_;
  const auto channels = static_cast<size_t>(state.channels);
  if (interleaved.size() % channels != 0) {
    return {Code::kInvalidRequest, "audio: " + std::to_string(interleaved.size()) + " samples are no multiple of " +
                                       std::to_string(channels) + " channels"};
  }
  const auto frames = static_cast<int64_t>(interleaved.size() / channels);
  if (frames > int64_t{kMaxAudioSeconds} * state.sample_rate - state.frames_in) return too_long();
  if (const int64_t bad = find_non_finite(interleaved); bad >= 0) {
    return non_finite(state.frames_in + bad / state.channels);
  }
  const size_t start = out.size();
  try {
    out.reserve(start + static_cast<size_t>(state.total_for(state.frames_in + frames) - state.samples_out));
    for (int64_t done = 0; done < frames;) {
      const int64_t count = std::min(kBlockFrames, frames - done);
      const float* block = interleaved.data() + done * state.channels;
      state.frames_in += count;
      if (state.filter.taps == 0) {
        mix(block, count, state.channels, out);
        state.samples_out += count;
      } else {
        mix(block, count, state.channels, state.mono);
        state.filter_to(state.total_for(state.frames_in), out);
      }
      done += count;
    }
  } catch (const std::bad_alloc&) {
    out.resize(start);
    return {Code::kOutOfMemory, "no memory to convert audio"};
  }
  return {};
}

Status AudioConverter::finish(std::vector<float>& out) {
  State& state = *state_;
  if (state.filter.taps == 0) return {};
  const size_t start = out.size();
  try {
    state.mono.resize(state.mono.size() + static_cast<size_t>(state.filter.taps), 0.0f);
    state.filter_to(state.total_for(state.frames_in), out);
  } catch (const std::bad_alloc&) {
    out.resize(start);
    return {Code::kOutOfMemory, "no memory to convert audio"};
  }
  return {};
}

Result<std::vector<float>> to_mono_16k(std::span<const float> interleaved, int channels, int sample_rate) {
  TANDEM_ASSIGN_OR_RETURN(AudioConverter converter, AudioConverter::create(channels, sample_rate));
  if (interleaved.empty()) return Status(Code::kInvalidRequest, "audio: 0 samples; nothing to hear");
  std::vector<float> mono;
  TANDEM_RETURN_IF_ERROR(converter.push(interleaved, mono));
  TANDEM_RETURN_IF_ERROR(converter.finish(mono));
  return mono;
}

Result<AudioFrames> frame_audio(std::span<const float> mono16k, int frame) {
  if (frame < 1 || frame > kAudioRate) {
    return Status(Code::kInvalidRequest, "an audio frame of " + std::to_string(frame) + " samples; it must be 1 to " +
                                             std::to_string(kAudioRate));
  }
  if (mono16k.empty()) return Status(Code::kInvalidRequest, "audio: 0 samples; nothing to hear");
  if (static_cast<int64_t>(mono16k.size()) > kMaxAudioSamples) return too_long();
  if (const int64_t bad = find_non_finite(mono16k); bad >= 0) return non_finite(bad);
  try {
    AudioFrames result;
    result.count = (static_cast<int64_t>(mono16k.size()) + frame - 1) / frame;
    result.frames.reserve(static_cast<size_t>(result.count * frame));
    result.frames.assign(mono16k.begin(), mono16k.end());
    result.frames.resize(static_cast<size_t>(result.count * frame), 0.0f);
    return result;
  } catch (const std::bad_alloc&) {
    return Status(Code::kOutOfMemory, "no memory for the frames of the audio");
  }
}

}  // namespace tandem
