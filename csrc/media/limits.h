// Hard limits of the media path: what is larger is refused with kInvalidRequest before memory is taken for it.
// Depends on nothing.
#pragma once

#include <cstdint>

namespace tandem {

constexpr int64_t kMaxImageSide = 65'536;         // pixels, of an image as decoded
constexpr int64_t kMaxImagePixels = 134'217'728;  // 2^27: 384 MiB as uint8 RGB
constexpr int64_t kMaxRowStride = 1'073'741'824;  // 2^30 bytes between rows: more is a mistake, not an image
constexpr int kMaxSoftTokens = 1'120;             // the largest budget of one image
constexpr int kVideoSoftTokens = 70;              // the budget of one frame of a video
constexpr int64_t kMaxVideoPixels = 33'554'432;   // 2^25 per frame: 8K
constexpr int64_t kMaxVideoFrames = 4'096;        // sampled frames of one video: more than fill a context of 256 Ki

constexpr int kAudioRate = 16'000;        // Hz, what the model hears
constexpr int kAudioFrame = 640;          // samples per soft token: 40 ms
constexpr int kMinSampleRate = 8'000;     // Hz, of a recording as decoded
constexpr int kMaxSampleRate = 192'000;   // Hz
constexpr int kMaxAudioChannels = 8;      //
constexpr int kMaxAudioSeconds = 10'800;  // 3 hours: more than fill a context of 256 Ki tokens
constexpr int64_t kMaxAudioSamples = int64_t{kAudioRate} * kMaxAudioSeconds;  // at kAudioRate: 659 MiB

}  // namespace tandem
