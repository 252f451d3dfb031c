// Entry points of tandem.h for images and sound.
#include <algorithm>

#include "capi/objects.h"
#include "capi/options.h"
#include "media/audio.h"
#include "media/image.h"
#include "media/limits.h"

namespace tandem::capi {
namespace {

Result<SoftTokens> embed(Engine& engine, const tandem_image* image) {
  tandem_image given;
  if (image == nullptr) return Status(Code::kInvalidRequest, "image is NULL; pass a tandem_image");
  TANDEM_RETURN_IF_ERROR(read_struct(image, "tandem_image", &given));
  const bool packed = given.row_stride == 0 && given.width > 0 && given.width <= kMaxImageSide;
  return engine.embed_image(given.rgb, given.width, given.height, packed ? 3 * given.width : given.row_stride,
                            given.max_soft_tokens, given.video_frame != 0);
}

// `most`: soft tokens that can be used; what has more is refused before memory is taken for it.
Result<SoftTokens> embed(Engine& engine, const tandem_audio* audio, int64_t most) {
  tandem_audio given;
  if (audio == nullptr) return Status(Code::kInvalidRequest, "audio is NULL; pass a tandem_audio");
  TANDEM_RETURN_IF_ERROR(read_struct(audio, "tandem_audio", &given));
  if (!engine.bundle().manifest().media.audio) return engine.embed_audio({});  // says that the model takes none
  TANDEM_ASSIGN_OR_RETURN(AudioConverter converter, AudioConverter::create(given.channels, given.sample_rate));
  if (given.frames < 0 || given.frames > int64_t{kMaxAudioSeconds} * given.sample_rate) {
    return Status(Code::kInvalidRequest, "audio has " + std::to_string(given.frames) + " frames; 1 to " +
                                             std::to_string(kMaxAudioSeconds) + " seconds are taken: cut it");
  }
  if (given.samples == nullptr && given.frames > 0) {
    return Status(Code::kInvalidRequest, "samples is NULL but frames is " + std::to_string(given.frames));
  }
  const int64_t per_token = engine.bundle().manifest().media.audio->frame;
  const int64_t heard = (given.frames * kAudioRate + given.sample_rate - 1) / given.sample_rate;
  if (const int64_t tokens = (heard + per_token - 1) / per_token; tokens > most) {
    return Status(Code::kContextLength, "the sound takes " + std::to_string(tokens) + " tokens but " +
                                            std::to_string(most) +
                                            " are left of the context; cut it, rewind, or use a larger max_context");
  }
  std::vector<float> mono;
  const auto count = static_cast<std::size_t>(given.frames) * static_cast<std::size_t>(given.channels);
  TANDEM_RETURN_IF_ERROR(converter.push({given.samples, count}, mono));
  TANDEM_RETURN_IF_ERROR(converter.finish(mono));
  return engine.embed_audio(mono);
}

tandem_status give(const SoftTokens& tokens, float* embeddings, std::size_t capacity, int64_t* rows) {
  if (rows != nullptr) *rows = tokens.rows;
  if (embeddings == nullptr && capacity == 0 && rows != nullptr) return TANDEM_OK;
  if (embeddings == nullptr) return fail(TANDEM_INVALID_REQUEST, "embeddings is NULL; pass a buffer");
  if (capacity < tokens.values->size()) {
    return fail(TANDEM_BUFFER_TOO_SMALL, "the buffer holds " + std::to_string(capacity) + " floats but " +
                                             std::to_string(tokens.values->size()) +
                                             " (rows * hidden_size) are needed");
  }
  std::copy(tokens.values->begin(), tokens.values->end(), embeddings);
  return TANDEM_OK;
}

// Appends the marker before media of this kind, the media that `make` returns, and the marker after it.
template <class Make>
tandem_status append(SessionObject& object, const Make& make, int64_t* soft_tokens) {
  object.cancelled = false;
  const Deadline deadline = deadline_after(object.prefill_timeout);
  const Result<SoftTokens> made = make();
  TANDEM_C_RETURN_IF_ERROR(made.status());
  if (object.cancelled || object.closed) {
    return fail(TANDEM_CANCELLED, "cancelled while the image or sound was read; nothing was appended");
  }
  const SoftTokens& tokens = made.value();
  const MediaSpec& media = object.session->engine().bundle().manifest().media;
  const bool sound = tokens.kind == MediaKind::kAudio;
  const PromptPart parts[] = {std::vector<int32_t>{sound ? media.audio->begin : media.image->begin}, tokens,
                              std::vector<int32_t>{sound ? media.audio->end : media.image->end}};
  object.generation.reset();
  TANDEM_C_RETURN_IF_ERROR(object.session->prefill(parts, deadline));
  if (soft_tokens != nullptr) *soft_tokens = tokens.rows;
  return TANDEM_OK;
}

}  // namespace
}  // namespace tandem::capi

namespace capi = tandem::capi;

extern "C" {

tandem_status tandem_session_prefill_image(tandem_session* session, const tandem_image* image, int64_t* soft_tokens) {
  return capi::with_session(session, [&](capi::SessionObject& object) -> tandem_status {
    return capi::append(object, [&] { return capi::embed(object.session->engine(), image); }, soft_tokens);
  });
}

tandem_status tandem_session_prefill_audio(tandem_session* session, const tandem_audio* audio, int64_t* soft_tokens) {
  return capi::with_session(session, [&](capi::SessionObject& object) -> tandem_status {
    tandem::Engine& engine = object.session->engine();
    const int64_t room = engine.max_context() - object.session->position();
    return capi::append(object, [&] { return capi::embed(engine, audio, room); }, soft_tokens);
  });
}

tandem_status tandem_embed_image(tandem_engine* engine, const tandem_image* image, float* embeddings, size_t capacity,
                                 int64_t* rows) {
  return capi::with_engine(engine, [&](tandem::Engine& native) -> tandem_status {
    const auto tokens = capi::embed(native, image);
    TANDEM_C_RETURN_IF_ERROR(tokens.status());
    return capi::give(tokens.value(), embeddings, capacity, rows);
  });
}

tandem_status tandem_embed_audio(tandem_engine* engine, const tandem_audio* audio, float* embeddings, size_t capacity,
                                 int64_t* rows) {
  return capi::with_engine(engine, [&](tandem::Engine& native) -> tandem_status {
    const auto tokens = capi::embed(native, audio, tandem::kMaxAudioSamples);
    TANDEM_C_RETURN_IF_ERROR(tokens.status());
    return capi::give(tokens.value(), embeddings, capacity, rows);
  });
}

}  // extern "C"
