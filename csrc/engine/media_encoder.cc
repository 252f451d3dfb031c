#include "engine/media_encoder.h"

#include <algorithm>

#include "base/memory.h"
#include "base/sha256.h"
#include "media/audio.h"
#include "media/image.h"

namespace tandem {
namespace {

constexpr const char* kVisionSection = "tf_lite_vision_encoder";
constexpr const char* kAudioSection = "tf_lite_audio_encoder_hw";
constexpr std::size_t kCacheBytes = std::size_t{512} << 20;  // a five-minute video and its sound
constexpr uint64_t kUnpacked = 3;  // float16 in the file; in memory float32, and a copy while it is packed

template <class T>
std::span<const std::byte> bytes_of(const T* data, std::size_t count) {
  return std::as_bytes(std::span<const T>(data, count));
}

std::string describe(const std::vector<int>& budgets) {
  std::string out;
  for (const int budget : budgets) out += (out.empty() ? "" : ", ") + std::to_string(budget);
  return out;
}

}  // namespace

const char* media_kind_name(MediaKind kind) {
  return kind == MediaKind::kImage ? "image" : kind == MediaKind::kVideo ? "video" : "audio";
}

bool MediaCache::find(const std::string& hash, SoftTokens* out) {
  const std::lock_guard lock(mutex_);
  const auto found = by_hash_.find(hash);
  if (found == by_hash_.end()) return false;
  newest_first_.splice(newest_first_.begin(), newest_first_, found->second);
  *out = *found->second;
  return true;
}

void MediaCache::insert(const SoftTokens& tokens) {
  const auto size = [](const SoftTokens& one) { return one.values->size() * sizeof(float); };
  const std::lock_guard lock(mutex_);
  if (size(tokens) > max_bytes_ || by_hash_.contains(tokens.hash)) return;
  bytes_ += size(tokens);
  newest_first_.push_front(tokens);
  by_hash_[tokens.hash] = newest_first_.begin();
  while (bytes_ > max_bytes_) {
    bytes_ -= size(newest_first_.back());
    by_hash_.erase(newest_first_.back().hash);
    newest_first_.pop_back();
  }
}

MediaEncoder::MediaEncoder(const Bundle& bundle, const litert::Environment& environment, std::mutex& creation,
                           const litert::CpuOptions& options, std::string cache_dir, std::string cache_name)
    : bundle_(bundle),
      environment_(environment),
      creation_(creation),
      options_(options),
      cache_dir_(std::move(cache_dir)),
      cache_name_(std::move(cache_name)),
      cache_(kCacheBytes) {}

Result<std::unique_ptr<MediaEmbedder>> MediaEncoder::compile(const char* section, const char* name,
                                                             MediaEmbedder::Place place) {
  TANDEM_RETURN_IF_ERROR(bundle_.require(section).status());
  const SectionInfo* found = bundle_.find(section);
  if (const uint64_t available = available_memory(); found->bytes * kUnpacked > available) {
    return Status(Code::kOutOfMemory, "the model's part for " + std::string(name) + " needs " +
                                          gibibytes(found->bytes * kUnpacked) + " of memory but " +
                                          gibibytes(available) + " are available; use a smaller context");
  }
  place.fd = bundle_.fd();
  place.offset = found->offset;
  place.bytes = found->bytes;
  place.hidden_size = bundle_.manifest().model.hidden_size;
  const std::lock_guard lock(creation_);
  TANDEM_ASSIGN_OR_RETURN(auto cache, litert::WeightCache::prepare(cache_dir_, cache_name_ + "-" + name + ".xnnpack",
                                                                   found->bytes * kUnpacked));
  return MediaEmbedder::create(environment_, place, options_, std::move(cache));
}

Result<MediaEmbedder*> MediaEncoder::vision() {
  const std::lock_guard lock(mutex_);
  if (vision_ == nullptr) {
    const int64_t patch = bundle_.manifest().media.image->patch;
    MediaEmbedder::Place place;
    place.prefix = "vision_";
    place.input_width = 3 * patch * patch;
    place.positions = true;
    TANDEM_ASSIGN_OR_RETURN(vision_, compile(kVisionSection, "vision", std::move(place)));
  }
  return vision_.get();
}

Result<MediaEmbedder*> MediaEncoder::hearing() {
  const std::lock_guard lock(mutex_);
  if (hearing_ == nullptr) {
    MediaEmbedder::Place place;
    place.prefix = "audio_";
    place.input_width = bundle_.manifest().media.audio->frame;
    TANDEM_ASSIGN_OR_RETURN(hearing_, compile(kAudioSection, "audio", std::move(place)));
  }
  return hearing_.get();
}

Result<SoftTokens> MediaEncoder::image(const uint8_t* rgb, int64_t width, int64_t height, int64_t row_stride,
                                       int max_soft_tokens, bool video, bool* reused) {
  const auto& spec = bundle_.manifest().media.image;
  if (!spec) {
    return Status(Code::kInvalidRequest, "'" + bundle_.path() + "' takes no images; use a bundle of a model that does");
  }
  if (max_soft_tokens == 0) max_soft_tokens = video ? spec->soft_tokens.front() : spec->default_soft_tokens;
  if (std::find(spec->soft_tokens.begin(), spec->soft_tokens.end(), max_soft_tokens) == spec->soft_tokens.end()) {
    return Status(Code::kInvalidRequest, "max_soft_tokens is " + std::to_string(max_soft_tokens) +
                                             "; this model's budgets are " + describe(spec->soft_tokens));
  }
  TANDEM_RETURN_IF_ERROR(check_image(rgb, width, height, row_stride));
  TANDEM_RETURN_IF_ERROR(budgeted_size(width, height, max_soft_tokens, spec->patch).status());

  Sha256 digest;
  const int64_t head[] = {width, height, max_soft_tokens, video ? 1 : 0};
  digest.update(bytes_of(head, std::size(head)));
  for (int64_t y = 0; y < height; ++y) {
    digest.update(bytes_of(rgb + y * row_stride, static_cast<std::size_t>(width) * 3));
  }
  SoftTokens tokens;
  tokens.hash = to_hex(digest.finish());
  *reused = cache_.find(tokens.hash, &tokens);
  if (*reused) return tokens;

  TANDEM_ASSIGN_OR_RETURN(const ImageInput input,
                          prepare_image(rgb, width, height, row_stride, max_soft_tokens,
                                        video ? PixelScale::kVideoFrame : PixelScale::kImage, spec->patch));
  if (std::max(input.width, input.height) > int64_t{spec->patch} * spec->positions) {
    return Status(Code::kInvalidRequest, "an image of " + std::to_string(width) + " x " + std::to_string(height) +
                                             " pixels is too long for this model; cut it, or use a smaller budget");
  }
  TANDEM_ASSIGN_OR_RETURN(MediaEmbedder * embedder, vision());
  auto values = std::make_shared<std::vector<float>>(static_cast<std::size_t>(input.count) * hidden_size());
  TANDEM_RETURN_IF_ERROR(embedder->embed(input.patches, input.positions, values->data()));
  tokens.kind = video ? MediaKind::kVideo : MediaKind::kImage;
  tokens.rows = input.count;
  tokens.values = std::move(values);
  cache_.insert(tokens);
  return tokens;
}

Result<SoftTokens> MediaEncoder::audio(std::span<const float> mono16k, bool* reused) {
  const auto& spec = bundle_.manifest().media.audio;
  if (!spec) {
    return Status(Code::kInvalidRequest, "'" + bundle_.path() + "' takes no sound; use a bundle of a model that does");
  }
  SoftTokens tokens;
  Sha256 digest;
  const int64_t head[] = {static_cast<int64_t>(mono16k.size()), -1};
  digest.update(bytes_of(head, std::size(head)));
  digest.update(std::as_bytes(mono16k));
  tokens.hash = to_hex(digest.finish());
  *reused = cache_.find(tokens.hash, &tokens);
  if (*reused) return tokens;

  const uint64_t rows = mono16k.size() / static_cast<uint64_t>(spec->frame) + 1;
  const uint64_t row_bytes = (static_cast<uint64_t>(spec->frame) + hidden_size()) * sizeof(float);
  if (const uint64_t available = available_memory(); rows * row_bytes > available) {
    return Status(Code::kOutOfMemory, "sound of " + std::to_string(mono16k.size() / kAudioRate) + " seconds needs " +
                                          gibibytes(rows * row_bytes) + " of memory but " + gibibytes(available) +
                                          " are available; cut it into parts");
  }
  TANDEM_ASSIGN_OR_RETURN(const AudioFrames frames, frame_audio(mono16k, spec->frame));
  TANDEM_ASSIGN_OR_RETURN(MediaEmbedder * embedder, hearing());
  auto values = std::make_shared<std::vector<float>>(static_cast<std::size_t>(frames.count) * hidden_size());
  TANDEM_RETURN_IF_ERROR(embedder->embed(frames.frames, {}, values->data()));
  tokens.kind = MediaKind::kAudio;
  tokens.rows = frames.count;
  tokens.values = std::move(values);
  cache_.insert(tokens);
  return tokens;
}

}  // namespace tandem
