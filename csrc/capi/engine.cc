// Entry points of tandem.h about engines and their tokenizers.
#include "capi/buffers.h"
#include "capi/objects.h"
#include "capi/options.h"

namespace tandem::capi {
namespace {

tandem_status give_text(const std::string& text, char* buffer, std::size_t capacity, std::size_t* bytes) {
  return give(text.data(), text.size(), 1, buffer, capacity, bytes);
}

tandem_status check_flags(uint32_t flags, uint32_t known) {
  if ((flags & ~known) == 0) return TANDEM_OK;
  return fail(TANDEM_INVALID_REQUEST, "flags has bits set (" + std::to_string(flags & ~known) + ") of no meaning here");
}

Result<std::string> text_of(const Engine& engine, int32_t which) {
  const Manifest& manifest = engine.bundle().manifest();
  switch (which) {
    case TANDEM_TEXT_FAMILY:
      return manifest.family;
    case TANDEM_TEXT_QUANTIZATION:
      return manifest.quantization;
    case TANDEM_TEXT_KV_DTYPE:
      return engine.kv_dtype();
    case TANDEM_TEXT_GRAPH:
      return std::string(engine.fast() ? "fast" : "portable");
    case TANDEM_TEXT_CHAT_TEMPLATE:
      return manifest.chat_template.value_or("");
    case TANDEM_TEXT_BUNDLE_HASH:
      return engine.bundle().hash();
    case TANDEM_TEXT_MANIFEST:
      return engine.bundle().manifest_text();
    default:
      return Status(Code::kInvalidRequest, "there is no text number " + std::to_string(which) + "; see TANDEM_TEXT_*");
  }
}

tandem_engine_info info_of(Engine& engine) {
  const Manifest& manifest = engine.bundle().manifest();
  tandem_engine_info info{};
  info.vocab_size = engine.target().vocab_size();
  info.hidden_size = manifest.model.hidden_size;
  info.layers = static_cast<int64_t>(manifest.model.layers.size());
  info.max_context = engine.max_context();
  info.num_threads = engine.num_threads();
  info.memory_bytes = engine.memory_plan().total();
  info.load_seconds = engine.load_seconds();
  info.bos_id = manifest.tokens.bos;
  info.eos_id = manifest.tokens.eos.empty() ? -1 : manifest.tokens.eos.front();
  info.pad_id = manifest.tokens.pad;
  info.add_bos = manifest.add_bos;
  info.has_drafter = manifest.drafter.has_value();
  info.warm_start = engine.warm_start();
  info.takes_images = manifest.media.image.has_value();
  info.takes_audio = manifest.media.audio.has_value();
  info.step_rows = engine.step_rows();
  return info;
}

}  // namespace
}  // namespace tandem::capi

namespace capi = tandem::capi;

extern "C" {

tandem_status tandem_engine_open(const char* path, const tandem_engine_options* options, tandem_engine** engine) {
  return capi::guarded([&]() -> tandem_status {
    if (engine == nullptr) return capi::fail(TANDEM_INVALID_REQUEST, "engine is NULL; pass where the handle goes");
    *engine = nullptr;
    if (path == nullptr) return capi::fail(TANDEM_INVALID_REQUEST, "path is NULL; pass the path of a bundle");
    const auto wishes = capi::engine_options(options);
    TANDEM_C_RETURN_IF_ERROR(wishes.status());
    auto opened = tandem::Engine::open(path, wishes.value());
    TANDEM_C_RETURN_IF_ERROR(opened.status());
    auto object = std::make_shared<capi::EngineObject>();
    object->engine = std::move(opened).value();
    *engine = capi::add(std::move(object));
    return *engine != nullptr ? TANDEM_OK : capi::fail(TANDEM_OUT_OF_MEMORY, "too many engines are open");
  });
}

tandem_status tandem_engine_close(tandem_engine* engine) {
  return capi::guarded([&]() -> tandem_status {
    const auto object = capi::remove(engine);
    if (object == nullptr) return TANDEM_BAD_HANDLE;
    tandem::PrefixStore* prefixes = object->engine->prefixes();
    return prefixes != nullptr ? capi::to_status(prefixes->flush()) : TANDEM_OK;
  });
}

tandem_status tandem_engine_get_info(tandem_engine* engine, tandem_engine_info* info) {
  return capi::with_engine(engine, [&](tandem::Engine& native) -> tandem_status {
    TANDEM_C_RETURN_IF_ERROR(capi::check_struct(info, "tandem_engine_info"));
    capi::write_struct(capi::info_of(native), info);
    return TANDEM_OK;
  });
}

tandem_status tandem_engine_get_text(tandem_engine* engine, int32_t which, char* buffer, size_t capacity,
                                     size_t* bytes) {
  return capi::with_engine(engine, [&](tandem::Engine& native) -> tandem_status {
    const auto text = capi::text_of(native, which);
    TANDEM_C_RETURN_IF_ERROR(text.status());
    return capi::give_text(text.value(), buffer, capacity, bytes);
  });
}

tandem_status tandem_engine_get_stats(tandem_engine* engine, tandem_stats* stats) {
  return capi::with_engine(engine, [&](tandem::Engine& native) -> tandem_status {
    TANDEM_C_RETURN_IF_ERROR(capi::check_struct(stats, "tandem_stats"));
    capi::write_struct(capi::stats_struct(native.stats()), stats);
    return TANDEM_OK;
  });
}

tandem_status tandem_engine_get_prefix_stats(tandem_engine* engine, tandem_prefix_stats* stats) {
  return capi::with_engine(engine, [&](tandem::Engine& native) -> tandem_status {
    TANDEM_C_RETURN_IF_ERROR(capi::check_struct(stats, "tandem_prefix_stats"));
    const auto counted = native.prefixes() != nullptr ? native.prefixes()->stats() : tandem::PrefixStore::Stats();
    capi::write_struct(capi::prefix_stats_struct(counted), stats);
    return TANDEM_OK;
  });
}

tandem_status tandem_encode(tandem_engine* engine, const char* text, size_t bytes, uint32_t flags, int32_t* ids,
                            size_t capacity, size_t* count) {
  return capi::with_engine(engine, [&](tandem::Engine& native) -> tandem_status {
    if (const tandem_status bad = capi::check_flags(flags, TANDEM_ADD_BOS | TANDEM_PARSE_SPECIAL)) return bad;
    if (text == nullptr && bytes > 0) return capi::fail(TANDEM_INVALID_REQUEST, "text is NULL but has bytes");
    if (bytes > tandem::Tokenizer::kMaxTextBytes) {
      return capi::fail(TANDEM_INVALID_REQUEST,
                        "text has " + std::to_string(bytes) + " bytes; at most 2^30 are taken, so cut it");
    }
    const std::vector<int32_t> made =
        native.tokenizer().encode({text, bytes}, (flags & TANDEM_ADD_BOS) != 0, (flags & TANDEM_PARSE_SPECIAL) != 0);
    return capi::give(made.data(), made.size(), 0, ids, capacity, count);
  });
}

tandem_status tandem_decode(tandem_engine* engine, const int32_t* ids, size_t count, uint32_t flags, char* buffer,
                            size_t capacity, size_t* bytes) {
  return capi::with_engine(engine, [&](tandem::Engine& native) -> tandem_status {
    if (const tandem_status bad = capi::check_flags(flags, TANDEM_SKIP_SPECIAL)) return bad;
    TANDEM_C_RETURN_IF_ERROR(capi::check_ids(ids, count));
    return capi::give_text(native.tokenizer().decode({ids, count}, (flags & TANDEM_SKIP_SPECIAL) != 0), buffer,
                           capacity, bytes);
  });
}

}  // extern "C"
