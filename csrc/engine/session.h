// Session: one sequence with its own KV cache; Generation: one run of the token loop over it.
// A session has a single owner: calls on it are serialised by the caller, except cancel(). A call that comes while
// another thread runs one is refused (kInvalidRequest) and changes nothing. Depends on engine.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/status.h"
#include "decode/depth_controller.h"
#include "decode/ngram_drafter.h"
#include "decode/sampler.h"
#include "decode/speculate.h"
#include "decode/stop.h"
#include "engine/engine.h"
#include "engine/stats.h"
#include "tokenizer/stream_decoder.h"

namespace tandem {

// A piece of a prompt: token ids, or an image or sound.
using PromptPart = std::variant<std::vector<int32_t>, SoftTokens>;

class Session {
 public:
  // `ticket`: Engine::admit() for the cache, which is of `target`.
  Session(std::shared_ptr<Engine> engine, Target& target, std::unique_ptr<TargetCache> cache, Admission::Ticket ticket)
      : engine_(std::move(engine)),
        target_(&target),
        ticket_(std::move(ticket)),
        cache_(std::move(cache)),
        seat_(engine_->scheduler(), cancelled_) {}

  // Number of tokens in the sequence.
  int64_t position() const { return static_cast<int64_t>(tokens_.size()); }
  // How many tokens of the running (or newest) prefill are done; safe from any thread.
  int64_t prefilled() const { return prefilled_; }

  // Appends ids. kContextLength or kInvalidRequest leave the session as it was; kCancelled, and kTimeout at the
  // deadline, keep the part that was done.
  Status prefill(std::span<const int32_t> ids, Deadline deadline = kNoDeadline);
  // The same for ids with images and sound between them, each image a block of its own whose tokens see each other. In
  // the sequence an id stands for every soft token (Engine::placeholder). A generation can begin after an id only.
  Status prefill(std::span<const PromptPart> parts, Deadline deadline = kNoDeadline);

  // How many tokens at the sequence's beginning are those that `parts` would make, never a part of an image: what need
  // not be computed again for such a prompt, after a rewind() to there. Images and sound are compared by their hash.
  int64_t common_prefix(std::span<const PromptPart> parts) const;

  // Appends ids and writes the logits that follow each, float32 [ids.size(), vocab_size], to `out`.
  Status logits(std::span<const int32_t> ids, float* out);

  // Forgets everything from `position` on (0 <= position <= position()). Where the sliding layers no longer hold the
  // window before that, the next call computes the sequence again from its beginning; with `refill` false that is
  // refused. kInvalidRequest for that, and for a position inside an image; nothing has changed then.
  Status rewind(int64_t position, bool refill = true);

  // A session with the same sequence, its statistics begin anew. Keys and values are shared until one of the two writes
  // (on the fast graphs; on the portable ones they are copied). kOutOfMemory as Engine::new_session().
  Result<std::unique_ptr<Session>> clone();

  // Writes the sequence with its keys and values to a file that appears as a whole or not at all; Engine::restore()
  // reads it. What was not computed yet (after a long rewind) is computed first. There is no sampler state to save: it
  // belongs to a Generation. kInvalidRequest on the portable graphs, kCancelled, kIo.
  Status save(const std::string& path);
  static Result<std::unique_ptr<Session>> restore(std::shared_ptr<Engine> engine, const std::string& path);

  // Makes room in a full context: keeps the first `pinned` tokens and the newest half of the rest, images and sounds as
  // a whole. What follows the pinned ones moves and is computed again by the next call.
  Status slide(int64_t pinned);

  const std::vector<int32_t>& tokens() const { return tokens_; }  // placeholders where there are soft tokens

  // What the drafter expects to follow: at most `count` tokens, none where it cannot say (no drafter, or no step has
  // just been made). Changes nothing. `*seconds`: what it took, without waiting for a turn.
  Status draft(int count, std::span<const int32_t> suppressed, std::vector<int32_t>& out, double* seconds);

  // Stops the running or the next call at its next step; safe from any thread.
  void cancel();

  const Stats& stats() const { return stats_; }  // since the session was made
  // Bytes that the sequence's keys and values may take; a drafter adds none.
  uint64_t cache_bytes() const { return cache_->bytes(); }
  Engine& engine() const { return *engine_; }

 private:
  friend class Generation;

  // A call on the session; status() is an error while another one runs.
  class Use {
   public:
    explicit Use(Session& session) : session_(session), ours_(!session.in_use_.exchange(true)) {}
    ~Use() {
      if (!ours_) return;
      session_.seat_.set_deadline(kNoDeadline);  // it was this call's
      session_.in_use_ = false;
    }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    Status status() const;

   private:
    Session& session_;
    bool ours_;
  };

  // Soft tokens and where they stand.
  struct Span {
    int64_t first = 0;
    int64_t rows = 0;  // fewer than the media has when the sequence was cut inside a sound
    SoftTokens media;

    int64_t end() const { return first + rows; }
    bool block() const { return media.kind != MediaKind::kAudio; }
  };

  Status check(std::span<const int32_t> ids) const;
  Status check_length(int64_t more) const;
  Status check(const SoftTokens& media) const;
  // Appends `ids` with `spans` among them.
  Status append(std::span<const int32_t> ids, std::vector<Span> spans, Deadline deadline);
  // Shortens the sequence, not the cache.
  void truncate(int64_t position);
  // An error when rewinding to `target` would empty the cache.
  Status check_window(int64_t target) const;
  // Lets go of what the cache holds beyond the sequence. The newest token, unless it is soft, runs again in its step,
  // so that the window before that token must still be there.
  void trim_cache();
  bool ends_in_media() const { return !spans_.empty() && spans_.back().end() == position(); }
  // An error when the sequence ends in media: what follows is predicted after an id.
  Status check_can_step() const;
  // Whether the drafter can go on from the last token.
  bool can_draft() const;
  struct Prefix {
    std::span<const int32_t> tokens;
    std::vector<MediaSpan> media;
  };
  // What identifies the first `until` tokens, or fewer where media begin whose content is unknown.
  Prefix known_prefix(int64_t until) const;
  // Takes over what the engine's prefix cache has of the first `until` tokens. For an empty cache.
  void reuse_prefix(int64_t until);
  // Gives it what the cache holds.
  void remember_prefix() const;
  // The metadata of a saved session.
  std::vector<std::byte> describe_media() const;
  bool read_media(std::span<const std::byte> metadata);
  // Adds what was counted since the last call to the engine's statistics, and tells what memory the cache has taken.
  void publish();
  // Brings the cache up to `until` tokens.
  Status catch_up(int64_t until);
  Status fill(int64_t until);
  // After `status` of a call to the target: kOk when another target took its place, whose cache is empty; else
  // `status`.
  Status recover(Status status);
  // Runs the last token (again, if it was already in the cache) and `drafts` behind it; their logits go to `round`.
  Status step(std::span<const int32_t> drafts, DraftRound& round);

  std::shared_ptr<Engine> engine_;
  Target* target_;            // whose cache it is; the engine's, until that falls back to another
  Admission::Ticket ticket_;  // given back after the cache is gone
  std::unique_ptr<TargetCache> cache_;
  std::vector<int32_t> tokens_;
  std::vector<Span> spans_;  // in order; the embeddings stay, for a cache that has to be filled again
  int64_t cached_ = 0;       // tokens_[0, cached_) have their KV; the newest token usually waits for its decode step
  std::atomic<bool> in_use_ = false;
  std::atomic<bool> cancelled_ = false;
  Scheduler::Seat seat_;
  Scheduler::Report report_;  // of the newest step
  std::atomic<int64_t> prefilled_ = 0;
  int64_t changes_ = 0;  // counts what ends a round: prefills, rewinds, ...
  NgramDrafter ngrams_;  // covers tokens_, or less
  Stats stats_, published_;
};

enum class FinishReason { kNone, kStop, kLength, kContext, kCancelled, kTimeout };
const char* finish_reason_name(FinishReason reason);

// One token of a generation. `text` is the UTF-8 that became final with it (empty while a character or a possible stop
// string is incomplete). `logprob`: natural logarithm of its probability under the model, NaN unless asked for.
struct Token {
  int32_t id = 0;
  std::string text;
  float logprob = 0;
  bool from_draft = false;
};

// The token loop. A stop token ends it and is its last token, so that the sequence reads as the model wrote it; a stop
// string ends it and is not part of any text.
class Generation {
 public:
  // At the deadline it ends with kTimeout, after the step that runs then.
  static Result<std::unique_ptr<Generation>> create(Session& session, const SamplingParams& params,
                                                    Deadline deadline = kNoDeadline);
  ~Generation();

  // The next token; nothing after the end. After an error the session still holds every token that was returned.
  Result<std::optional<Token>> next();
  FinishReason finish_reason() const { return finish_; }

 private:
  Generation(Session& session, const SamplingParams& params, Deadline deadline);
  void finish(FinishReason reason);
  // next() for a session that is in use.
  Result<std::optional<Token>> advance();
  // Makes rows of logits: one, or several with drafts.
  Status begin_round();
  // Chooses how many tokens to draft, and drafts them.
  Status draft();
  void end_round();
  // For benchmarks: the draft in question with the chance that was asked for, else another token.
  int32_t simulated(int32_t id);

  Session& session_;
  SamplingParams params_;
  Deadline deadline_;
  Sampler sampler_;
  StreamDecoder decoder_;
  StopMatcher stop_;
  DraftRound round_;
  DepthController::Round measured_;  // of round_, for the controller
  bool measuring_ = false;
  std::vector<int32_t> drafts_;
  int64_t changes_ = 0;  // of the session, when round_ was made
  int64_t produced_ = 0;
  FinishReason finish_ = FinishReason::kNone;
  std::mt19937_64 simulation_;
};

}  // namespace tandem
