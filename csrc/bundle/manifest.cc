// Validates the manifest field by field. No value reaches the engine that was not checked here.
#include "bundle/manifest.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "base/json.h"
#include "base/sha256.h"

namespace tandem {
namespace {

constexpr std::string_view kMagic = "TANDEMM1";
constexpr size_t kHexHashBytes = 64;
constexpr double kMaxScale = 1e9;  // of rope thetas, norm offsets, scales: far above any real model
constexpr int64_t kMaxMediaValue = int64_t{1} << 31;
constexpr int64_t kMaxSectionBytes = int64_t{1} << 46;

Status damaged(const std::string& what) {
  return Status(Code::kBundle, "the manifest is damaged: " + what + "; copy or convert the bundle again");
}

// One JSON object with its place in the document. The first error is kept in `error`, shared by all readers of a
// document; after it, every field reads as empty.
class Fields {
 public:
  Fields(const Json* object, std::string where, Status* error)
      : object_(object), where_(std::move(where)), error_(error) {
    if (object_ != nullptr && object_->members() == nullptr) {
      fail("", std::string("expected an object, found ") + object_->kind());
      object_ = nullptr;
    }
  }

  void fail(std::string_view key, const std::string& what) const {
    if (error_->ok()) *error_ = Status(Code::kBundle, "manifest" + path(key) + ": " + what);
  }

  Fields object(std::string_view key) const { return Fields(required(key), where_ + "." + std::string(key), error_); }

  bool has(std::string_view key) const {
    const Json* value = object_ == nullptr ? nullptr : object_->find(key);
    return value != nullptr && !value->is_null();
  }

  bool boolean(std::string_view key) const {
    const Json* value = required(key);
    if (value != nullptr && value->boolean() == nullptr) wrong_kind(key, *value, "a boolean");
    return value != nullptr && value->boolean() != nullptr && *value->boolean();
  }

  int64_t integer(std::string_view key, int64_t low, int64_t high) const {
    const Json* value = required(key);
    return value == nullptr ? low : checked_integer(key, *value, low, high);
  }
  int small(std::string_view key, int64_t low, int64_t high) const { return static_cast<int>(integer(key, low, high)); }

  double number(std::string_view key, double low, double high) const {
    const Json* value = required(key);
    return value == nullptr ? low : checked_number(key, *value, low, high);
  }
  // Above 0, for what is divided by or multiplied with.
  double positive(std::string_view key, double high) const {
    const double value = number(key, 0, high);
    if (value <= 0) fail(key, "must be above 0");
    return value;
  }

  std::optional<double> optional_number(std::string_view key, double low, double high) const {
    const Json* value = object_ == nullptr ? nullptr : object_->find(key);
    if (value == nullptr || value->is_null()) return std::nullopt;
    return checked_number(key, *value, low, high);
  }

  std::string text(std::string_view key, size_t max_bytes = kMaxTextBytes) const {
    const Json* value = required(key);
    if (value == nullptr) return {};
    if (value->text() == nullptr) {
      wrong_kind(key, *value, "a string");
      return {};
    }
    if (value->text()->empty() || value->text()->size() > max_bytes) {
      fail(key, "must have 1 to " + std::to_string(max_bytes) + " bytes");
      return {};
    }
    return *value->text();
  }

  std::string hash(std::string_view key) const {
    const std::string value = text(key, kHexHashBytes);
    const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
    if (value.size() != kHexHashBytes || !std::all_of(value.begin(), value.end(), is_hex)) {
      fail(key, "is not a sha256 in lower-case hexadecimal");
    }
    return value;
  }

  // The array under `key` with at least `min_count` and at most `max_count` items; empty after an error.
  const Json::Array& array(std::string_view key, size_t min_count, size_t max_count) const {
    static const Json::Array kEmpty;
    const Json* value = required(key);
    if (value == nullptr) return kEmpty;
    if (value->array() == nullptr) {
      wrong_kind(key, *value, "an array");
      return kEmpty;
    }
    if (value->array()->size() < min_count || value->array()->size() > max_count) {
      fail(key, "must have " + std::to_string(min_count) + " to " + std::to_string(max_count) + " items");
      return kEmpty;
    }
    return *value->array();
  }

  std::vector<int> integers(std::string_view key, size_t min_count, size_t max_count, int64_t low, int64_t high) const {
    std::vector<int> result;
    for (const Json& item : array(key, min_count, max_count)) {
      result.push_back(static_cast<int>(checked_integer(key, item, low, high)));
    }
    return result;
  }

  const Json* raw(std::string_view key) const { return required(key); }
  const Json::Object& members() const {
    static const Json::Object kEmpty;
    return object_ == nullptr ? kEmpty : *object_->members();
  }
  Fields child(const Json& value, const std::string& name) const { return Fields(&value, where_ + name, error_); }
  int64_t checked_integer(std::string_view key, const Json& value, int64_t low, int64_t high) const {
    if (value.integer() == nullptr) {
      wrong_kind(key, value, "an integer");
      return low;
    }
    if (*value.integer() < low || *value.integer() > high) {
      fail(key,
           std::to_string(*value.integer()) + " is outside " + std::to_string(low) + " to " + std::to_string(high));
      return low;
    }
    return *value.integer();
  }

 private:
  std::string path(std::string_view key) const { return where_ + (key.empty() ? "" : "." + std::string(key)); }

  void wrong_kind(std::string_view key, const Json& value, const char* expected) const {
    fail(key, std::string("expected ") + expected + ", found " + value.kind());
  }

  const Json* required(std::string_view key) const {
    if (object_ == nullptr) return nullptr;
    const Json* value = object_->find(key);
    if (value == nullptr) fail(key, "is missing");
    return value;
  }

  double checked_number(std::string_view key, const Json& value, double low, double high) const {
    if (value.integer() == nullptr && value.real() == nullptr) {
      wrong_kind(key, value, "a number");
      return low;
    }
    const double number = value.real() != nullptr ? *value.real() : static_cast<double>(*value.integer());
    if (!(number >= low && number <= high)) {
      fail(key, Json(number).write() + " is outside " + Json(low).write() + " to " + Json(high).write());
      return low;
    }
    return number;
  }

  const Json* object_;
  std::string where_;
  Status* error_;
};

LayerSpec read_layer(const Fields& fields, int num_heads) {
  LayerSpec layer;
  layer.head_dim = fields.small("head_dim", 2, kMaxHeadDim);
  layer.kv_heads = fields.small("kv_heads", 1, kMaxHeads);
  layer.window = fields.small("window", 0, kMaxContextTokens);
  layer.k_eq_v = fields.boolean("k_eq_v");
  if (layer.head_dim % 2 != 0) fields.fail("head_dim", "must be even");
  if (num_heads % layer.kv_heads != 0) {
    fields.fail("kv_heads", std::to_string(layer.kv_heads) + " does not divide num_heads " + std::to_string(num_heads));
  }
  const Fields rope = fields.object("rope");
  layer.rope.theta = rope.positive("theta", kMaxScale);
  layer.rope.factor = rope.positive("factor", kMaxScale);
  layer.rope.rotated = rope.small("rotated", 0, layer.head_dim / 2);
  return layer;
}

// top_k arrives as 64 or 64.0: the converter keeps the recommended values as numbers.
SamplerSpec read_sampler(const Fields& fields) {
  SamplerSpec sampler;
  sampler.temperature = fields.optional_number("temperature", 0, 1000);
  sampler.top_p = fields.optional_number("top_p", 0, 1);
  sampler.min_p = fields.optional_number("min_p", 0, 1);
  if (const auto top_k = fields.optional_number("top_k", 0, static_cast<double>(kMaxVocab))) {
    if (*top_k != std::floor(*top_k)) fields.fail("top_k", "must be a whole number");
    sampler.top_k = static_cast<int>(*top_k);
  }
  return sampler;
}

// Numbers about images and audio. Those called *_token_id must be ids.
std::map<std::string, int64_t> read_media(const Fields& fields, int vocab) {
  std::map<std::string, int64_t> media;
  if (fields.members().size() > kMaxMediaFields) fields.fail("", "has too many fields");
  for (const Json::Member& member : fields.members()) {
    if (member.value.is_null()) continue;
    const bool is_id = member.key.ends_with("_token_id");
    media[member.key] = fields.checked_integer(member.key, member.value, is_id ? 0 : -kMaxMediaValue,
                                               is_id ? vocab - 1 : kMaxMediaValue);
  }
  return media;
}

ModelSpec read_model(const Fields& fields) {
  ModelSpec model;
  model.family = fields.text("family");
  model.vocab_size = fields.small("vocab_size", 1, kMaxVocab);
  model.hidden_size = fields.small("hidden_size", 1, kMaxHidden);
  model.intermediate_size = fields.small("intermediate_size", 1, kMaxIntermediate);
  model.num_heads = fields.small("num_heads", 1, kMaxHeads);
  size_t index = 0;
  for (const Json& layer : fields.array("layers", 1, kMaxLayers)) {
    model.layers.push_back(
        read_layer(fields.child(layer, ".layers[" + std::to_string(index++) + "]"), model.num_heads));
  }
  model.rms_norm_eps = fields.positive("rms_norm_eps", 1);
  model.norm_offset = fields.number("norm_offset", -kMaxScale, kMaxScale);
  model.attention_scale = fields.positive("attention_scale", kMaxScale);
  model.v_norm = fields.boolean("v_norm");
  model.layer_scalar = fields.boolean("layer_scalar");
  model.final_softcap = fields.optional_number("final_softcap", 0, kMaxScale);
  if (model.final_softcap && *model.final_softcap <= 0) fields.fail("final_softcap", "must be above 0, or null");
  model.embed_scale = fields.positive("embed_scale", kMaxScale);
  model.max_context = fields.small("max_context", 1, kMaxContextTokens);

  const int64_t last = int64_t{model.vocab_size} - 1;
  model.bos_id = fields.small("bos_id", 0, last);
  model.eos_ids = fields.integers("eos_ids", 0, kMaxEosIds, 0, last);
  model.pad_id = fields.small("pad_id", 0, last);
  model.suppress_ids = fields.integers("suppress_ids", 0, static_cast<size_t>(last), 0, last);
  model.sampler = read_sampler(fields.object("sampler"));
  model.media = read_media(fields.object("media"), model.vocab_size);
  return model;
}

bool same_cache(const LayerSpec& a, const LayerSpec& b) {
  return a.head_dim == b.head_dim && a.kv_heads == b.kv_heads && a.window == b.window && a.rope.theta == b.rope.theta &&
         a.rope.factor == b.rope.factor && a.rope.rotated == b.rope.rotated;
}

DrafterSpec read_drafter(const Fields& fields, const Manifest& manifest) {
  DrafterSpec drafter;
  drafter.model = read_model(fields.object("model"));
  drafter.backbone_size = fields.small("backbone_size", 1, kMaxHidden);
  drafter.quantization = fields.text("quantization");
  drafter.target = fields.hash("target");
  const std::vector<LayerSpec>& layers = manifest.model.layers;
  const size_t count = drafter.model.layers.size();
  drafter.reads = fields.integers("reads", count, count, 0, static_cast<int64_t>(layers.size()) - 1);
  if (drafter.target != manifest.source.fingerprint) {
    fields.fail("target", "the drafter was made for another model");
  }
  if (drafter.backbone_size != manifest.model.hidden_size) fields.fail("backbone_size", "differs from the model's");
  if (drafter.model.vocab_size != manifest.model.vocab_size)
    fields.fail("model.vocab_size", "differs from the model's");
  for (size_t i = 0; i < drafter.reads.size(); ++i) {
    if (!same_cache(drafter.model.layers[i], layers[static_cast<size_t>(drafter.reads[i])])) {
      fields.fail("reads", "layer " + std::to_string(i) + " does not fit the layer of the model that it reads");
    }
  }
  return drafter;
}

Manifest::Tokens read_tokens(const Fields& fields, int vocab) {
  const int64_t last = int64_t{vocab} - 1;
  Manifest::Tokens tokens;
  tokens.bos = fields.small("bos", 0, last);
  tokens.eos = fields.integers("eos", 0, kMaxEosIds, 0, last);
  tokens.pad = fields.small("pad", 0, last);
  tokens.suppress = fields.integers("suppress", 0, static_cast<size_t>(last), 0, last);
  return tokens;
}

MediaSpec read_media_spec(const Fields& fields, int vocab) {
  const int64_t last = int64_t{vocab} - 1;
  MediaSpec media;
  if (fields.has("image")) {
    const Fields from = fields.object("image");
    MediaSpec::Image image;
    image.patch = from.small("patch", 1, kMaxPatch);
    image.positions = from.small("positions", 1, kMaxHidden);
    image.soft_tokens = from.integers("soft_tokens", 1, kMaxSoftTokenBudgets, 1, kMaxSoftTokenBudget);
    std::sort(image.soft_tokens.begin(), image.soft_tokens.end());
    image.default_soft_tokens = from.small("default_soft_tokens", 1, kMaxSoftTokenBudget);
    image.token = from.small("token", 0, last);
    image.video_token = from.small("video_token", 0, last);
    image.begin = from.small("begin", 0, last);
    image.end = from.small("end", 0, last);
    media.image = image;
  }
  if (fields.has("audio")) {
    const Fields from = fields.object("audio");
    MediaSpec::Audio audio;
    audio.frame = from.small("frame", 1, kMaxAudioFrame);
    audio.sample_rate = from.small("sample_rate", 1, kMaxAudioFrame);
    audio.token = from.small("token", 0, last);
    audio.begin = from.small("begin", 0, last);
    audio.end = from.small("end", 0, last);
    media.audio = audio;
  }
  return media;
}

Manifest read_manifest(const Fields& fields) {
  Manifest manifest;
  manifest.format = kManifestFormat;
  manifest.generator = fields.text("generator");
  manifest.family = fields.text("family");
  manifest.quantization = fields.text("quantization");
  const Fields source = fields.object("source");
  manifest.source.fingerprint = source.hash("fingerprint");
  manifest.source.dtype = source.text("dtype");
  manifest.header_sha256 = fields.hash("header_sha256");
  manifest.model = read_model(fields.object("model"));
  if (manifest.family != manifest.model.family) fields.fail("family", "differs from model.family");

  manifest.context = fields.small("context", 1, kMaxContextTokens);
  manifest.prefill_sizes = fields.integers("prefill_sizes", 1, kMaxPrefillSizes, 1, manifest.context);
  std::sort(manifest.prefill_sizes.begin(), manifest.prefill_sizes.end());
  if (std::adjacent_find(manifest.prefill_sizes.begin(), manifest.prefill_sizes.end()) !=
      manifest.prefill_sizes.end()) {
    fields.fail("prefill_sizes", "has the same size twice");
  }
  manifest.tokens = read_tokens(fields.object("tokens"), manifest.model.vocab_size);
  manifest.sampler = read_sampler(fields.object("sampler"));
  if (const Json* value = fields.raw("chat_template"); value != nullptr && !value->is_null()) {
    manifest.chat_template = fields.text("chat_template", kMaxTemplateBytes);
  }
  manifest.add_bos = fields.boolean("add_bos");
  if (fields.has("drafter")) manifest.drafter = read_drafter(fields.object("drafter"), manifest);
  if (fields.has("media")) manifest.media = read_media_spec(fields.object("media"), manifest.model.vocab_size);

  const Fields sections = fields.object("sections");
  for (const Json::Member& member : sections.members()) {
    const Fields entry = sections.child(member.value, "." + member.key);
    Manifest::Section& section = manifest.sections[member.key];
    section.sha256 = entry.hash("sha256");
    section.bytes = static_cast<uint64_t>(entry.integer("bytes", 1, kMaxSectionBytes));
  }
  return manifest;
}

}  // namespace

Result<std::string_view> manifest_json(std::span<const std::byte> section) {
  if (section.size() < kManifestPrefixBytes) return damaged("it has only " + std::to_string(section.size()) + " bytes");
  const auto u32 = [&](size_t at) {
    uint32_t value;
    std::memcpy(&value, section.data() + at, sizeof(value));
    return value;
  };
  if (std::memcmp(section.data(), kMagic.data(), kMagic.size()) != 0) {
    return damaged("it does not begin with " + std::string(kMagic));
  }
  const std::span<const std::byte> json = section.subspan(kManifestPrefixBytes);
  if (u32(8) != json.size() || u32(12) != 0) return damaged("its length does not fit its section");
  const Sha256Digest digest = sha256(json);
  if (std::memcmp(section.data() + 16, digest.data(), digest.size()) != 0) return damaged("its checksum is wrong");
  return std::string_view(reinterpret_cast<const char*>(json.data()), json.size());
}

Result<Manifest> parse_manifest(std::string_view json) {
  JsonLimits limits;
  limits.max_bytes = kMaxManifestBytes;
  const Result<Json> document = Json::parse(json, limits);
  if (!document.ok()) return damaged(document.status().message());
  Status error;
  const Fields fields(&document.value(), "", &error);
  // The format comes first: fields of another format mean nothing.
  const int64_t format = fields.integer("format", 1, std::numeric_limits<int32_t>::max());
  if (error.ok() && format != kManifestFormat) {
    return Status(Code::kBundle, "the bundle's manifest has format " + std::to_string(format) +
                                     ", newer than the format " + std::to_string(kManifestFormat) +
                                     " that this release reads; update tandem-lm");
  }
  Manifest manifest = read_manifest(fields);
  if (!error.ok()) return error;
  return manifest;
}

}  // namespace tandem
