// tandem.h for C++17, header only: owning classes, std::string and std::vector, and exceptions instead of numbers.
// The thread rules are those of tandem.h: an Engine may be used from many threads at once, a Session by one at a time
// but for cancel(). Objects can be moved; moved-from and default-made ones have no handle, and their use throws.
#ifndef TANDEM_TANDEM_HPP
#define TANDEM_TANDEM_HPP

#include <cstddef>
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tandem/tandem.h"

namespace tandem {
inline namespace api {  // apart from the library's own classes, which a static link brings along

// What a failed call says: what(), and the number in status().
class Error : public std::runtime_error {
 public:
  Error(tandem_status status, const char* message) : std::runtime_error(message), status_(status) {}
  tandem_status status() const noexcept { return status_; }

 private:
  tandem_status status_;
};

inline void check(tandem_status status) {
  if (status != TANDEM_OK) throw Error(status, tandem_last_error());
}

using Tokens = std::vector<std::int32_t>;

// How tokens are chosen; the fields mean what those of tandem_sampling mean.
struct Sampling {
  float temperature = 0;
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  int top_k = 0;
  bool logprobs = false;
  std::int64_t max_tokens = 256;
  std::uint64_t seed = 0;
  bool model_stop_ids = true;  // end at the model's own end tokens; false: at stop_ids only
  Tokens stop_ids;             // used when model_stop_ids is false
  std::vector<std::string> stop_strings;
  Tokens suppress_ids;
  std::string drafter = "auto";
  int draft_tokens = 0;
  double timeout_seconds = 0;
  bool slide = false;  // in a full context the oldest tokens but `pinned_tokens` make room
  std::int64_t pinned_tokens = 0;
};

// A token of a stream; `text` is valid as long as tandem_token says.
struct Token {
  std::int32_t id = -1;  // -1: there was none, the generation has ended
  std::string_view text;
  float logprob = 0;
  bool from_draft = false;
  tandem_finish finish = TANDEM_FINISH_NONE;
};

namespace detail {

// The C struct of a Sampling, which must outlive it.
class CSampling {
 public:
  explicit CSampling(const Sampling& from) {
    for (const std::string& text : from.stop_strings) strings_.push_back(text.c_str());
    c_.size = sizeof(c_);
    c_.temperature = from.temperature;
    c_.top_p = from.top_p;
    c_.min_p = from.min_p;
    c_.repetition_penalty = from.repetition_penalty;
    c_.presence_penalty = from.presence_penalty;
    c_.frequency_penalty = from.frequency_penalty;
    c_.top_k = from.top_k;
    c_.logprobs = from.logprobs ? 1 : 0;
    c_.max_tokens = from.max_tokens;
    c_.seed = from.seed;
    static const std::int32_t none = 0;
    if (!from.model_stop_ids) c_.stop_ids = from.stop_ids.empty() ? &none : from.stop_ids.data();
    c_.num_stop_ids = from.model_stop_ids ? 0 : from.stop_ids.size();
    c_.stop_strings = strings_.data();
    c_.num_stop_strings = strings_.size();
    c_.suppress_ids = from.suppress_ids.data();
    c_.num_suppress_ids = from.suppress_ids.size();
    c_.drafter = from.drafter.c_str();
    c_.draft_tokens = from.draft_tokens;
    c_.timeout_seconds = from.timeout_seconds;
    c_.slide = from.slide ? 1 : 0;
    c_.pinned_tokens = from.pinned_tokens;
  }
  CSampling(const CSampling&) = delete;
  CSampling& operator=(const CSampling&) = delete;
  const tandem_sampling* get() const noexcept { return &c_; }

 private:
  std::vector<const char*> strings_;
  tandem_sampling c_{};
};

inline Token token_of(const tandem_token& from) {
  return {from.id, {from.text, from.text_bytes}, from.logprob, from.from_draft != 0, from.finish};
}

}  // namespace detail

class Session {
 public:
  Session() = default;
  explicit Session(tandem_session* handle) noexcept : handle_(handle) {}
  Session(Session&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Session& operator=(Session&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Session() {
    if (handle_ != nullptr) tandem_session_close(handle_);
  }

  std::int64_t position() const {
    std::int64_t position = 0;
    check(tandem_session_get_position(handle_, &position));
    return position;
  }
  void prefill(const Tokens& ids) { check(tandem_session_prefill(handle_, ids.data(), ids.size())); }
  // Appends an image or sound with its markers; gives the number of its soft tokens. `size` is set here.
  std::int64_t prefill_image(tandem_image image) {
    image.size = sizeof(image);
    std::int64_t soft_tokens = 0;
    check(tandem_session_prefill_image(handle_, &image, &soft_tokens));
    return soft_tokens;
  }
  std::int64_t prefill_audio(tandem_audio audio) {
    audio.size = sizeof(audio);
    std::int64_t soft_tokens = 0;
    check(tandem_session_prefill_audio(handle_, &audio, &soft_tokens));
    return soft_tokens;
  }
  // Appends ids and returns the logits after each, [ids, vocab_size] row by row.
  std::vector<float> logits(const Tokens& ids, std::int64_t vocab_size) {
    std::vector<float> values(ids.size() * static_cast<std::size_t>(vocab_size));
    check(tandem_session_logits(handle_, ids.data(), ids.size(), values.data(), values.size()));
    return values;
  }
  // The ids of the sequence.
  Tokens tokens() const {
    std::size_t count = 0;
    check(tandem_session_get_tokens(handle_, nullptr, 0, &count));
    Tokens ids(count);
    if (count > 0) check(tandem_session_get_tokens(handle_, ids.data(), ids.size(), &count));
    return ids;
  }
  // Of each later prefill, prefill_image and prefill_audio; 0: none.
  void set_prefill_timeout(double seconds) { check(tandem_session_set_prefill_timeout(handle_, seconds)); }
  // `refill` false: refused where something would have to be computed again.
  void rewind(std::int64_t position, bool refill = true) {
    check((refill ? tandem_session_rewind : tandem_session_rewind_no_refill)(handle_, position));
  }
  // An independent session with the same sequence.
  Session clone() {
    tandem_session* copy = nullptr;
    check(tandem_session_clone(handle_, &copy));
    return Session(copy);
  }
  // For Engine::restore().
  void save(const std::string& path) { check(tandem_session_save(handle_, path.c_str())); }
  void cancel() { check(tandem_session_cancel(handle_)); }

  // Calls `on_token(const Token&)` with every token; false ends the generation. What it throws ends it too, and comes
  // out of this function.
  template <class OnToken>
  tandem_finish generate(const Sampling& sampling, OnToken&& on_token) {
    struct Context {
      OnToken& function;
      std::exception_ptr thrown;
    } context{on_token, nullptr};
    const auto callback = [](const tandem_token* token, void* data) -> int {
      Context& held = *static_cast<Context*>(data);
      try {
        return held.function(detail::token_of(*token)) ? 0 : 1;
      } catch (...) {
        held.thrown = std::current_exception();
        return 1;
      }
    };
    tandem_finish finish = TANDEM_FINISH_NONE;
    const detail::CSampling c(sampling);
    const tandem_status status = tandem_session_generate(handle_, c.get(), callback, &context, &finish);
    if (context.thrown) std::rethrow_exception(context.thrown);
    check(status);
    return finish;
  }
  // One token at a time: begin() once, then step() until finish is not TANDEM_FINISH_NONE.
  void begin(const Sampling& sampling) {
    const detail::CSampling c(sampling);
    check(tandem_session_begin(handle_, c.get()));
  }
  Token step() {
    tandem_token token{};
    token.size = sizeof(token);
    check(tandem_session_step(handle_, &token));
    return detail::token_of(token);
  }

  tandem_stats stats() const {
    tandem_stats stats{};
    stats.size = sizeof(stats);
    check(tandem_session_get_stats(handle_, &stats));
    return stats;
  }
  tandem_session* handle() const noexcept { return handle_; }

 private:
  tandem_session* handle_ = nullptr;
};

class Engine {
 public:
  // All defaults; or set fields of `options`, whose size is set here.
  explicit Engine(const std::string& path, tandem_engine_options options = {}) {
    options.size = sizeof(options);
    check(tandem_engine_open(path.c_str(), &options, &handle_));
  }
  Engine() = default;
  Engine(Engine&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Engine& operator=(Engine&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Engine() {
    if (handle_ != nullptr) tandem_engine_close(handle_);
  }

  Session session() const {
    tandem_session* session = nullptr;
    check(tandem_session_create(handle_, &session));
    return Session(session);
  }
  // A session that Session::save() wrote.
  Session restore(const std::string& path) const {
    tandem_session* session = nullptr;
    check(tandem_session_restore(handle_, path.c_str(), &session));
    return Session(session);
  }
  tandem_engine_info info() const {
    tandem_engine_info info{};
    info.size = sizeof(info);
    check(tandem_engine_get_info(handle_, &info));
    return info;
  }
  // `which`: TANDEM_TEXT_*.
  std::string text(std::int32_t which) const {
    return text_of([&](char* buffer, std::size_t capacity, std::size_t* bytes) {
      return tandem_engine_get_text(handle_, which, buffer, capacity, bytes);
    });
  }
  Tokens encode(std::string_view text, bool add_bos = false, bool parse_special = false) const {
    const std::uint32_t flags = flag(add_bos, TANDEM_ADD_BOS) | flag(parse_special, TANDEM_PARSE_SPECIAL);
    Tokens ids(text.size() + 1);  // seldom more tokens than bytes
    std::size_t count = 0;
    tandem_status status = tandem_encode(handle_, text.data(), text.size(), flags, ids.data(), ids.size(), &count);
    if (status == TANDEM_BUFFER_TOO_SMALL) {
      ids.resize(count);
      status = tandem_encode(handle_, text.data(), text.size(), flags, ids.data(), ids.size(), &count);
    }
    check(status);
    ids.resize(count);
    return ids;
  }
  std::string decode(const Tokens& ids, bool skip_special = false) const {
    return text_of([&](char* buffer, std::size_t capacity, std::size_t* bytes) {
      return tandem_decode(handle_, ids.data(), ids.size(), flag(skip_special, TANDEM_SKIP_SPECIAL), buffer, capacity,
                           bytes);
    });
  }
  // The embeddings of an image or sound, [soft tokens, hidden_size] row by row. `size` is set here.
  std::vector<float> embed_image(tandem_image image) const { return embedded(image, tandem_embed_image); }
  std::vector<float> embed_audio(tandem_audio audio) const { return embedded(audio, tandem_embed_audio); }
  tandem_stats stats() const {
    tandem_stats stats{};
    stats.size = sizeof(stats);
    check(tandem_engine_get_stats(handle_, &stats));
    return stats;
  }
  tandem_prefix_stats prefix_stats() const {
    tandem_prefix_stats stats{};
    stats.size = sizeof(stats);
    check(tandem_engine_get_prefix_stats(handle_, &stats));
    return stats;
  }
  // Ends the handle, which the destructor does too; here the caller hears when the prefix cache cannot be written.
  void close() { check(tandem_engine_close(std::exchange(handle_, nullptr))); }
  tandem_engine* handle() const noexcept { return handle_; }

 private:
  template <class Media, class Embed>
  std::vector<float> embedded(Media& media, const Embed& embed) const {
    media.size = sizeof(media);
    std::int64_t rows = 0;
    check(embed(handle_, &media, nullptr, 0, &rows));
    std::vector<float> values(static_cast<std::size_t>(rows * info().hidden_size));
    check(embed(handle_, &media, values.data(), values.size(), &rows));
    return values;
  }
  static std::uint32_t flag(bool set, std::uint32_t value) { return set ? value : 0; }
  template <class Get>
  static std::string text_of(const Get& get) {
    std::size_t bytes = 0;
    check(get(nullptr, 0, &bytes));
    std::string text(bytes + 1, '\0');  // the NUL too
    check(get(text.data(), text.size(), &bytes));
    text.resize(bytes);
    return text;
  }

  tandem_engine* handle_ = nullptr;
};

}  // namespace api
}  // namespace tandem

#endif  // TANDEM_TANDEM_HPP
