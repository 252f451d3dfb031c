// The manifest: what a bundle is, as typed and validated data. It is the last section of every bundle that
// `tandem convert` writes; converter/family.py describes the model's fields. Depends on base.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace tandem {

inline constexpr int kManifestFormat = 1;
inline constexpr size_t kManifestPrefixBytes = 48;  // magic (8), u32 length, u32 0, sha256 of the JSON that follows
inline constexpr size_t kMaxManifestBytes = size_t{4} << 20;  // of the JSON
inline constexpr size_t kMaxTemplateBytes = size_t{1} << 20;
inline constexpr size_t kMaxTextBytes = 256;  // of names and descriptions
inline constexpr int64_t kMaxVocab = 1 << 22;
inline constexpr int64_t kMaxHidden = 1 << 16;
inline constexpr int64_t kMaxIntermediate = 1 << 20;
inline constexpr int64_t kMaxHeads = 1 << 10;
inline constexpr int64_t kMaxHeadDim = 1 << 12;
inline constexpr int64_t kMaxContextTokens = 1 << 24;
inline constexpr size_t kMaxLayers = 1 << 10;
inline constexpr size_t kMaxPrefillSizes = 64;
inline constexpr size_t kMaxEosIds = 256;
inline constexpr size_t kMaxMediaFields = 256;
inline constexpr int64_t kMaxPatch = 1 << 10;
inline constexpr int64_t kMaxSoftTokenBudget = 1 << 16;
inline constexpr size_t kMaxSoftTokenBudgets = 64;
inline constexpr int64_t kMaxAudioFrame = 1 << 20;

// Rotary embedding: pairs (i, i + head_dim/2), frequency theta^(-2i/head_dim) / factor for i < rotated, 0 beyond.
struct RopeSpec {
  double theta = 0;
  double factor = 0;
  int rotated = 0;
};

struct LayerSpec {
  int head_dim = 0;
  int kv_heads = 0;
  int window = 0;  // keys that a query sees, itself included; 0 = all
  RopeSpec rope;
  bool k_eq_v = false;  // V is taken from the raw K projection
};

// Defaults that the model's makers recommend; absent ones are up to the caller.
struct SamplerSpec {
  std::optional<double> temperature;
  std::optional<int> top_k;
  std::optional<double> top_p;
  std::optional<double> min_p;
};

struct ModelSpec {
  std::string family;
  int vocab_size = 0;
  int hidden_size = 0;
  int intermediate_size = 0;
  int num_heads = 0;
  std::vector<LayerSpec> layers;
  double rms_norm_eps = 0;
  double norm_offset = 0;
  double attention_scale = 0;
  bool v_norm = false;
  bool layer_scalar = false;
  std::optional<double> final_softcap;
  double embed_scale = 0;
  int max_context = 0;  // what the model was made for
  int bos_id = 0;
  std::vector<int> eos_ids;
  int pad_id = 0;
  std::vector<int> suppress_ids;
  SamplerSpec sampler;
  std::map<std::string, int64_t> media;  // image_token_id, audio_token_id, ...
};

// The MTP drafter: its layers have queries only and read the keys and values of the target's.
struct DrafterSpec {
  ModelSpec model;
  int backbone_size = 0;   // hidden size of its target
  std::vector<int> reads;  // per layer: the target's layer
  std::string target;      // hex sha256 of the checkpoint that it was converted for
  std::string quantization;
};

// What a host must know to prepare images and sound and to place them in a prompt (converter/media.py).
struct MediaSpec {
  struct Image {
    int patch = 0;                 // pixels per side of what becomes one soft token
    int positions = 0;             // columns, and rows, that the model tells apart
    std::vector<int> soft_tokens;  // budgets of one image, ascending
    int default_soft_tokens = 0;   // one of them
    int token = 0, video_token = 0, begin = 0, end = 0;
  };
  struct Audio {
    int frame = 0;        // samples that become one soft token
    int sample_rate = 0;  // Hz
    int token = 0, begin = 0, end = 0;
  };
  std::optional<Image> image;
  std::optional<Audio> audio;
};

struct Manifest {
  struct Source {
    std::string fingerprint;  // hex sha256 of the checkpoint that was converted
    std::string dtype;
  };
  struct Tokens {
    int bos = 0;
    std::vector<int> eos;
    int pad = 0;
    std::vector<int> suppress;
  };
  struct Section {
    std::string sha256;  // hex
    uint64_t bytes = 0;
  };

  int format = 0;
  std::string generator;
  std::string family;
  std::string quantization;
  Source source;
  std::string header_sha256;  // hex, of the file's header block
  ModelSpec model;
  int context = 0;                 // context length that the portable graphs were built for
  std::vector<int> prefill_sizes;  // ascending
  Tokens tokens;
  SamplerSpec sampler;
  std::optional<std::string> chat_template;
  bool add_bos = false;
  std::optional<DrafterSpec> drafter;
  MediaSpec media;
  std::map<std::string, Section> sections;  // by section name; all but the manifest's own
};

// Takes the manifest section apart and checks its checksum; gives the JSON inside it.
Result<std::string_view> manifest_json(std::span<const std::byte> section);

// Reads and validates the JSON. Unknown keys are ignored: a newer converter may say more. Messages name the field.
Result<Manifest> parse_manifest(std::string_view json);

}  // namespace tandem
