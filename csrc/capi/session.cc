// Entry points of tandem.h about sessions.
#include "capi/buffers.h"
#include "capi/objects.h"
#include "capi/options.h"

namespace tandem::capi {
namespace {

// `text` must live as long as the caller may look at it.
tandem_token token_struct(const Token& token, FinishReason finish, const std::string& text) {
  return {sizeof(tandem_token), token.id,   finish_number(finish), token.logprob, token.from_draft,
          text.c_str(),         text.size()};
}

Result<std::unique_ptr<Generation>> start(SessionObject& object, const tandem_sampling* sampling) {
  TANDEM_ASSIGN_OR_RETURN(const SamplingParams params,
                          sampling_params(sampling, object.session->engine().bundle().manifest()));
  object.generation.reset();
  return Generation::create(*object.session, params, sampling_deadline(sampling));
}

tandem_status generate(SessionObject& object, const tandem_sampling* sampling, tandem_token_callback callback,
                       void* user_data, tandem_finish* finish) {
  auto started = start(object, sampling);
  TANDEM_C_RETURN_IF_ERROR(started.status());
  Generation& generation = *started.value();
  while (!object.closed) {
    const auto next = generation.next();
    TANDEM_C_RETURN_IF_ERROR(next.status());
    if (const std::optional<Token>& token = next.value(); token) {
      const tandem_token given = token_struct(*token, generation.finish_reason(), token->text);
      if (callback != nullptr && callback(&given, user_data) != 0) break;
    }
    if (generation.finish_reason() != FinishReason::kNone) break;
  }
  const tandem_finish reason = finish_number(generation.finish_reason());
  if (finish != nullptr) *finish = reason != TANDEM_FINISH_NONE ? reason : TANDEM_FINISH_CANCELLED;
  return TANDEM_OK;
}

// A handle for a session that was made; `*out` is NULL so far.
tandem_status hand_out(Result<std::unique_ptr<Session>> made, tandem_session** out) {
  TANDEM_C_RETURN_IF_ERROR(made.status());
  auto object = std::make_shared<SessionObject>();
  object->session = std::move(made).value();
  *out = add(std::move(object));
  return *out != nullptr ? TANDEM_OK : fail(TANDEM_OUT_OF_MEMORY, "too many sessions are open");
}

tandem_status rewind(tandem_session* handle, int64_t position, bool refill) {
  return with_session(handle, [&](SessionObject& object) -> tandem_status {
    object.generation.reset();
    return to_status(object.session->rewind(position, refill));
  });
}

}  // namespace
}  // namespace tandem::capi

namespace capi = tandem::capi;
using capi::SessionObject;

extern "C" {

tandem_status tandem_session_create(tandem_engine* engine, tandem_session** session) {
  return capi::guarded([&]() -> tandem_status {
    if (session == nullptr) return capi::fail(TANDEM_INVALID_REQUEST, "session is NULL; pass where the handle goes");
    *session = nullptr;
    const auto owner = capi::find(engine);
    if (owner == nullptr) return TANDEM_BAD_HANDLE;
    return capi::hand_out(owner->engine->new_session(), session);
  });
}

tandem_status tandem_session_restore(tandem_engine* engine, const char* path, tandem_session** session) {
  return capi::guarded([&]() -> tandem_status {
    if (session == nullptr) return capi::fail(TANDEM_INVALID_REQUEST, "session is NULL; pass where the handle goes");
    *session = nullptr;
    const auto owner = capi::find(engine);
    if (owner == nullptr) return TANDEM_BAD_HANDLE;
    if (path == nullptr) return capi::fail(TANDEM_INVALID_REQUEST, "path is NULL; pass that of a saved session");
    return capi::hand_out(owner->engine->restore(path), session);
  });
}

tandem_status tandem_session_clone(tandem_session* session, tandem_session** clone) {
  if (clone != nullptr) *clone = nullptr;
  return capi::with_session(session, [&](SessionObject& object) -> tandem_status {
    if (clone == nullptr) return capi::fail(TANDEM_INVALID_REQUEST, "clone is NULL; pass where the handle goes");
    object.generation.reset();
    return capi::hand_out(object.session->clone(), clone);
  });
}

tandem_status tandem_session_save(tandem_session* session, const char* path) {
  return capi::with_session(session, [&](SessionObject& object) -> tandem_status {
    if (path == nullptr) return capi::fail(TANDEM_INVALID_REQUEST, "path is NULL; pass where the session is written");
    object.generation.reset();
    return capi::to_status(object.session->save(path));
  });
}

tandem_status tandem_session_close(tandem_session* session) {
  return capi::guarded([&]() -> tandem_status {
    const auto object = capi::remove(session);
    if (object == nullptr) return TANDEM_BAD_HANDLE;
    object->closed = true;
    object->session->cancel();
    return TANDEM_OK;
  });
}

tandem_status tandem_session_get_position(tandem_session* session, int64_t* position) {
  return capi::with_session(session, [&](SessionObject& object) -> tandem_status {
    if (position == nullptr) return capi::fail(TANDEM_INVALID_REQUEST, "position is NULL; pass where it goes");
    *position = object.session->position();
    return TANDEM_OK;
  });
}

tandem_status tandem_session_get_tokens(tandem_session* session, int32_t* ids, size_t capacity, size_t* count) {
  return capi::with_session(session, [&](SessionObject& object) -> tandem_status {
    const std::vector<int32_t>& tokens = object.session->tokens();
    return capi::give(tokens.data(), tokens.size(), 0, ids, capacity, count);
  });
}

tandem_status tandem_session_set_prefill_timeout(tandem_session* session, double seconds) {
  return capi::with_session(session, [&](SessionObject& object) -> tandem_status {
    TANDEM_C_RETURN_IF_ERROR(capi::check_timeout(seconds, "seconds"));
    object.prefill_timeout = seconds;
    return TANDEM_OK;
  });
}

tandem_status tandem_session_get_stats(tandem_session* session, tandem_stats* stats) {
  return capi::with_session(session, [&](SessionObject& object) -> tandem_status {
    TANDEM_C_RETURN_IF_ERROR(capi::check_struct(stats, "tandem_stats"));
    capi::write_struct(capi::stats_struct(object.session->stats()), stats);
    return TANDEM_OK;
  });
}

tandem_status tandem_session_prefill(tandem_session* session, const int32_t* ids, size_t count) {
  return capi::with_session(session, [&](SessionObject& object) -> tandem_status {
    TANDEM_C_RETURN_IF_ERROR(capi::check_ids(ids, count));
    object.generation.reset();
    return capi::to_status(
        object.session->prefill(std::span(ids, count), capi::deadline_after(object.prefill_timeout)));
  });
}

tandem_status tandem_session_logits(tandem_session* session, const int32_t* ids, size_t count, float* logits,
                                    size_t capacity) {
  return capi::with_session(session, [&](SessionObject& object) -> tandem_status {
    TANDEM_C_RETURN_IF_ERROR(capi::check_ids(ids, count));
    if (logits == nullptr && count > 0) return capi::fail(TANDEM_INVALID_REQUEST, "logits is NULL; pass a buffer");
    const size_t needed = count * static_cast<size_t>(object.session->engine().target().vocab_size());
    if (capacity < needed) {
      return capi::fail(TANDEM_BUFFER_TOO_SMALL, "the buffer holds " + std::to_string(capacity) + " floats but " +
                                                     std::to_string(needed) + " (count * vocab_size) are needed");
    }
    object.generation.reset();
    return capi::to_status(object.session->logits({ids, count}, logits));
  });
}

tandem_status tandem_session_rewind(tandem_session* session, int64_t position) {
  return capi::rewind(session, position, true);
}

tandem_status tandem_session_rewind_no_refill(tandem_session* session, int64_t position) {
  return capi::rewind(session, position, false);
}

tandem_status tandem_session_cancel(tandem_session* session) {
  return capi::guarded([&]() -> tandem_status {
    const auto object = capi::find(session);
    if (object == nullptr) return TANDEM_BAD_HANDLE;
    object->cancelled = true;
    object->session->cancel();
    return TANDEM_OK;
  });
}

tandem_status tandem_session_generate(tandem_session* session, const tandem_sampling* sampling,
                                      tandem_token_callback callback, void* user_data, tandem_finish* finish) {
  if (finish != nullptr) *finish = TANDEM_FINISH_NONE;
  return capi::with_session(session, [&](SessionObject& object) -> tandem_status {
    return capi::generate(object, sampling, callback, user_data, finish);
  });
}

tandem_status tandem_session_begin(tandem_session* session, const tandem_sampling* sampling) {
  return capi::with_session(session, [&](SessionObject& object) -> tandem_status {
    auto started = capi::start(object, sampling);
    TANDEM_C_RETURN_IF_ERROR(started.status());
    object.generation = std::move(started).value();
    return TANDEM_OK;
  });
}

tandem_status tandem_session_step(tandem_session* session, tandem_token* token) {
  return capi::with_session(session, [&](SessionObject& object) -> tandem_status {
    TANDEM_C_RETURN_IF_ERROR(capi::check_struct(token, "tandem_token"));
    if (object.generation == nullptr) {
      return capi::fail(TANDEM_INVALID_REQUEST, "no generation was begun; call tandem_session_begin() first");
    }
    auto next = object.generation->next();
    TANDEM_C_RETURN_IF_ERROR(next.status());
    const tandem::Token none{-1, {}, 0, false};
    const tandem::Token& got = next.value() ? *next.value() : none;
    object.text = got.text;
    capi::write_struct(capi::token_struct(got, object.generation->finish_reason(), object.text), token);
    return TANDEM_OK;
  });
}

}  // extern "C"
