// Images and sound to embeddings, for all sessions of an engine: prepares them, runs the bundle's media models, and
// remembers the results by content. The models are compiled when first needed: who has only text pays nothing.
// Thread-safe. Depends on media, model, bundle.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "bundle/reader.h"
#include "litert/handles.h"
#include "model/media_embedder.h"

namespace tandem {

enum class MediaKind { kImage, kVideo, kAudio };  // kVideo: one frame of a video
const char* media_kind_name(MediaKind kind);

// Embeddings that stand in a prompt like tokens. Cheap to copy.
struct SoftTokens {
  MediaKind kind = MediaKind::kImage;
  int64_t rows = 0;
  std::shared_ptr<const std::vector<float>> values;  // [rows, hidden size]
  std::string hash;                                  // of what they were made from; empty: unknown
};

// The newest results, by content, within a bound on their bytes. Thread-safe.
class MediaCache {
 public:
  explicit MediaCache(std::size_t max_bytes) : max_bytes_(max_bytes) {}
  bool find(const std::string& hash, SoftTokens* out);
  void insert(const SoftTokens& tokens);

 private:
  std::mutex mutex_;
  std::size_t max_bytes_, bytes_ = 0;
  std::list<SoftTokens> newest_first_;
  std::unordered_map<std::string, std::list<SoftTokens>::iterator> by_hash_;
};

class MediaEncoder {
 public:
  // `bundle` and `environment` must outlive the encoder; `cache_name` begins the names of the packed weights' files.
  // `creation` is held while a model is compiled.
  MediaEncoder(const Bundle& bundle, const litert::Environment& environment, std::mutex& creation,
               const litert::CpuOptions& options, std::string cache_dir, std::string cache_name);

  // rgb: [height, width, 3] bytes, rows row_stride bytes apart. max_soft_tokens: one of the model's budgets; 0: the
  // model's choice (70 for a video frame). `*reused` says whether the result was remembered. kInvalidRequest when the
  // model takes no images, for another budget, and for what prepare_image() refuses.
  Result<SoftTokens> image(const uint8_t* rgb, int64_t width, int64_t height, int64_t row_stride, int max_soft_tokens,
                           bool video, bool* reused);
  // mono16k: samples at the model's rate. kInvalidRequest when the model takes no sound, and for what frame_audio()
  // refuses.
  Result<SoftTokens> audio(std::span<const float> mono16k, bool* reused);

 private:
  std::size_t hidden_size() const { return static_cast<std::size_t>(bundle_.manifest().model.hidden_size); }
  Result<MediaEmbedder*> vision();
  Result<MediaEmbedder*> hearing();
  Result<std::unique_ptr<MediaEmbedder>> compile(const char* section, const char* name, MediaEmbedder::Place place);

  const Bundle& bundle_;
  const litert::Environment& environment_;
  std::mutex& creation_;
  litert::CpuOptions options_;
  std::string cache_dir_, cache_name_;
  MediaCache cache_;
  std::mutex mutex_;  // of the two below
  std::unique_ptr<MediaEmbedder> vision_, hearing_;
};

}  // namespace tandem
