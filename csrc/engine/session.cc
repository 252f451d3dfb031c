#include "engine/session.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <iterator>

namespace tandem {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kPrefillPiece = 2048;  // tokens after which a long prefill says how far it has come
constexpr int kLongMatch = 5;            // tokens before an n-gram draft that agree, for it to count as trustworthy

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

Status Session::Use::status() const {
  if (ours_) return {};
  return {Code::kInvalidRequest,
          "the session runs another call: give every thread or task a session of its own, or cancel() and wait"};
}

Status Session::check(std::span<const int32_t> ids) const {
  const int64_t vocab = engine_->target().vocab_size();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab) {
      return {Code::kInvalidRequest, "token " + std::to_string(ids[i]) + " at index " + std::to_string(i) +
                                         " is outside the vocabulary (0 to " + std::to_string(vocab - 1) + ")"};
    }
  }
  return check_length(static_cast<int64_t>(ids.size()));
}

Status Session::check_length(int64_t more) const {
  const int64_t total = position() + more;
  if (total > engine_->max_context()) {
    return {Code::kContextLength, "the sequence would have " + std::to_string(total) + " tokens (" +
                                      std::to_string(position()) + " + " + std::to_string(more) +
                                      ") but the context holds " + std::to_string(engine_->max_context()) +
                                      "; shorten the prompt, rewind, or use a bundle with a larger context"};
  }
  return {};
}

Status Session::check(const SoftTokens& media) const {
  const std::string what = media_kind_name(media.kind);
  if (engine_->placeholder(media.kind) < 0) {
    return {Code::kInvalidRequest, "this model takes no " + what + "; use a bundle of a model that does"};
  }
  const int64_t hidden = engine_->bundle().manifest().model.hidden_size;
  if (media.rows < 1 || media.values == nullptr || static_cast<int64_t>(media.values->size()) != media.rows * hidden) {
    return {Code::kInvalidRequest,
            "embeddings of " + what + " must be [rows, " + std::to_string(hidden) + "] with at least one row"};
  }
  return {};
}

Status Session::check_can_step() const {
  if (!ends_in_media()) return {};
  return {Code::kInvalidRequest, "the sequence ends with an image or sound; prefill a token after it (its end marker)"};
}

void Session::truncate(int64_t position) {
  tokens_.resize(static_cast<std::size_t>(position));
  while (!spans_.empty() && spans_.back().first >= position) spans_.pop_back();
  if (!spans_.empty()) spans_.back().rows = std::min(spans_.back().rows, position - spans_.back().first);
}

void Session::trim_cache() {
  const int64_t needed = ends_in_media() ? position() : std::max<int64_t>(0, position() - 1);
  if (cached_ > needed) cached_ = cache_->rewind(needed);
}

void Session::cancel() {
  cancelled_ = true;
  engine_->scheduler().recheck();
}

void Session::publish() {
  ticket_.update(cache_->bytes(), cache_->used_bytes());
  engine_->add_stats(stats_, published_);
  published_ = stats_;
}

Status Session::recover(Status status) {
  if (status.code() != Code::kBackend) return status;
  TANDEM_RETURN_IF_ERROR(engine_->fall_back(*target_, status));
  Target& target = engine_->target();
  TANDEM_ASSIGN_OR_RETURN(cache_, target.new_cache());
  target_ = &target;
  cached_ = 0;
  return {};
}

Status Session::catch_up(int64_t until) {
  Status status = fill(until);
  if (status.ok() || !(status = recover(status)).ok()) return status;
  return fill(until);
}

Status Session::fill(int64_t until) {
  if (cached_ >= until) return {};
  const std::span<const int32_t> todo(tokens_.data() + cached_, static_cast<std::size_t>(until - cached_));
  std::vector<SoftRows> soft;
  for (const Span& span : spans_) {
    if (span.end() > cached_ && span.first < until) {
      soft.push_back({span.first, span.rows, span.media.values->data(), span.block()});
    }
  }
  Status status;
  const int64_t start = cached_;
  if (cached_ == 0) reuse_prefix(until);
  while (cached_ < until && status.ok()) {
    const int64_t piece = std::min(kPrefillPiece, until - cached_), take = whole_blocks(soft, cached_, piece);
    int64_t done = 0;
    status = target_->prefill(*cache_, cached_,
                              todo.subspan(static_cast<std::size_t>(cached_ - start), static_cast<std::size_t>(take)),
                              soft, seat_, &done);
    cached_ += done;
    prefilled_ = cached_ - start;
  }
  return status;
}

Status Session::prefill(std::span<const int32_t> ids, Deadline deadline) {
  const Use use(*this);
  TANDEM_RETURN_IF_ERROR(use.status());
  TANDEM_RETURN_IF_ERROR(check(ids));
  return append(ids, {}, deadline);
}

Status Session::prefill(std::span<const PromptPart> parts, Deadline deadline) {
  const Use use(*this);
  TANDEM_RETURN_IF_ERROR(use.status());
  std::vector<int32_t> ids;
  std::vector<Span> spans;
  for (const PromptPart& part : parts) {
    if (const auto* text = std::get_if<std::vector<int32_t>>(&part)) {
      TANDEM_RETURN_IF_ERROR(check(*text));
      ids.insert(ids.end(), text->begin(), text->end());
    } else {
      const SoftTokens& media = std::get<SoftTokens>(part);
      TANDEM_RETURN_IF_ERROR(check(media));
      TANDEM_RETURN_IF_ERROR(check_length(static_cast<int64_t>(ids.size()) + media.rows));
      spans.push_back({position() + static_cast<int64_t>(ids.size()), media.rows, media});
      ids.insert(ids.end(), static_cast<std::size_t>(media.rows), engine_->placeholder(media.kind));
    }
  }
  TANDEM_RETURN_IF_ERROR(check_length(static_cast<int64_t>(ids.size())));
  return append(ids, std::move(spans), deadline);
}

int64_t Session::common_prefix(std::span<const PromptPart> parts) const {
  int64_t at = 0;
  auto span = spans_.begin();
  for (const PromptPart& part : parts) {
    if (const auto* media = std::get_if<SoftTokens>(&part)) {
      if (span == spans_.end() || span->first != at || span->rows != media->rows || span->media.kind != media->kind ||
          media->hash.empty() || span->media.hash != media->hash) {
        return at;
      }
      at = span++->end();
    } else {
      for (const int32_t id : std::get<std::vector<int32_t>>(part)) {
        const bool soft = span != spans_.end() && span->first == at;
        if (soft || at == position() || tokens_[static_cast<std::size_t>(at)] != id) return at;
        ++at;
      }
    }
  }
  return at;
}

Status Session::append(std::span<const int32_t> ids, std::vector<Span> spans, Deadline deadline) {
  if (ids.empty()) return {};
  cancelled_ = false;
  seat_.set_deadline(deadline);
  prefilled_ = 0;
  ++changes_;
  const auto start = Clock::now();
  const int64_t before = position(), reused = stats_.reused_tokens;
  tokens_.insert(tokens_.end(), ids.begin(), ids.end());
  std::move(spans.begin(), spans.end(), std::back_inserter(spans_));
  // The last token waits: the step that needs its logits runs it. A soft one cannot be run alone.
  const Status status = catch_up(ends_in_media() ? position() : position() - 1);
  if (!status.ok()) {
    truncate(status.code() == Code::kInvalidRequest ? before : std::max(before, cached_));
    trim_cache();
  }
  // What was computed again, or taken over, before `before` is neither.
  stats_.prefill_tokens += position() - std::max(before, std::min(position(), stats_.reused_tokens - reused));
  stats_.prefill_seconds += seconds_since(start);
  publish();
  if (status.ok()) remember_prefix();
  return status;
}

Status Session::logits(std::span<const int32_t> ids, float* out) {
  const Use use(*this);
  TANDEM_RETURN_IF_ERROR(use.status());
  TANDEM_RETURN_IF_ERROR(check(ids));
  if (ids.empty()) return {};
  cancelled_ = false;
  ++changes_;
  const auto start = Clock::now();
  TANDEM_RETURN_IF_ERROR(catch_up(position()));
  std::size_t done = 0;
  Status status;
  while (done < ids.size() && status.ok()) {
    ScoreItem item{cache_.get(), cached_ + static_cast<int64_t>(done), ids.subspan(done),
                   out + done * static_cast<std::size_t>(target_->vocab_size())};
    item.target = target_;
    status = engine_->scheduler().score(seat_, item);
    done += static_cast<std::size_t>(item.done);
    if (status.code() == Code::kBackend && recover(status).ok()) {
      status = catch_up(position());
      done = 0;
    }
  }
  seat_.leave_batch();
  tokens_.insert(tokens_.end(), ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(done));
  cached_ += static_cast<int64_t>(done);
  stats_.prefill_tokens += static_cast<int64_t>(done);
  stats_.prefill_seconds += seconds_since(start);
  publish();
  return status;
}

Status Session::rewind(int64_t target, bool refill) {
  const Use use(*this);
  TANDEM_RETURN_IF_ERROR(use.status());
  if (target < 0 || target > position()) {
    return {Code::kInvalidRequest, "cannot rewind to " + std::to_string(target) + ": the session holds " +
                                       std::to_string(position()) + " tokens"};
  }
  for (const Span& span : spans_) {
    if (span.block() && span.first < target && target < span.end()) {
      return {Code::kInvalidRequest,
              "cannot rewind to " + std::to_string(target) + ", which is inside an image: rewind to its begin (" +
                  std::to_string(span.first) + ") or its end (" + std::to_string(span.end()) + ")"};
    }
  }
  if (!refill) TANDEM_RETURN_IF_ERROR(check_window(target));
  ++changes_;
  truncate(target);
  ngrams_.truncate(target);
  trim_cache();
  return {};
}

Status Session::check_window(int64_t target) const {
  // As trim_cache(): the token before `target` runs again, unless it is soft.
  const auto soft_end = [&](int64_t position) {
    return std::any_of(spans_.begin(), spans_.end(), [&](const Span& span) {
      return span.first < position && (position == span.end() || (!span.block() && position < span.end()));
    });
  };
  const int64_t needed = soft_end(target) ? target : target - 1, least = cache_->resume_from();
  if (needed <= 0 || cached_ <= needed || needed >= least) return {};
  int64_t possible = soft_end(least) ? least : least + 1;
  for (const Span& span : spans_) {
    if (span.block() && span.first < possible && possible < span.end()) possible = span.end();
  }
  return {Code::kInvalidRequest, "cannot rewind to " + std::to_string(target) +
                                     " without computing the sequence again: the sliding layers hold no window before "
                                     "it any more; the least position that needs none is " +
                                     std::to_string(std::min(possible, position())) +
                                     " (or rewind to 0, or allow it: refill)"};
}

Status Session::slide(int64_t pinned) {
  // Media are kept or dropped as a whole.
  const auto outside = [&](int64_t at) {
    for (const Span& span : spans_) {
      if (span.first < at && at < span.end()) return span.end();
    }
    return at;
  };
  const int64_t kept = outside(pinned);
  const int64_t from = outside(std::max(kept, position() - std::max<int64_t>(1, (engine_->max_context() - kept) / 2)));
  if (kept >= position() || from <= kept || from >= position()) {
    return {Code::kContextLength, "the context of " + std::to_string(engine_->max_context()) + " tokens is full and " +
                                      std::to_string(pinned) +
                                      " pinned ones leave no room; pin fewer tokens (pinned_tokens)"};
  }
  ++changes_;
  tokens_.erase(tokens_.begin() + kept, tokens_.begin() + from);
  std::erase_if(spans_, [&](const Span& span) { return span.first >= kept && span.first < from; });
  for (Span& span : spans_) {
    if (span.first >= from) span.first -= from - kept;
  }
  ngrams_.truncate(kept);
  if (cached_ > kept) cached_ = cache_->rewind(kept);
  return {};
}

Status Session::step(std::span<const int32_t> drafts, DraftRound& round) {
  const int64_t last = position() - 1;
  TANDEM_RETURN_IF_ERROR(check_can_step());
  TANDEM_RETURN_IF_ERROR(catch_up(last));
  float* logits = round.begin(drafts);
  std::vector<int32_t> ids{tokens_.back()};
  ids.insert(ids.end(), drafts.begin(), drafts.end());
  cached_ = last;
  const auto score = [&] {
    ScoreItem item{cache_.get(), last, ids, logits};
    item.target = target_;
    return engine_->scheduler().score(seat_, item, &report_);
  };
  Status status = score();
  if (status.code() == Code::kBackend && recover(status).ok()) {
    TANDEM_RETURN_IF_ERROR(catch_up(last));
    status = score();
  }
  TANDEM_RETURN_IF_ERROR(status);
  cached_ = position();
  round.scored();
  return {};
}

bool Session::can_draft() const {
  const int64_t last = position() - 1;
  return target_ == &engine_->target() && engine_->drafter() != nullptr && cached_ >= last &&
         engine_->drafter()->ready(*cache_, last);
}

Status Session::draft(int count, std::span<const int32_t> suppressed, std::vector<int32_t>& out, double* seconds) {
  out.clear();
  *seconds = 0;
  if (!can_draft()) return {};
  const Status status = engine_->scheduler().draft(
      seat_, [&] { return engine_->drafter()->draft(*cache_, position() - 1, tokens_.back(), count, suppressed, out); },
      seconds);
  if (status.code() != Code::kBackend || !recover(status).ok()) return status;
  out.clear();
  return catch_up(position() - 1);
}

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kContext:
      return "context";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kTimeout:
      return "timeout";
  }
  return "";
}

Generation::Generation(Session& session, const SamplingParams& params, Deadline deadline)
    : session_(session),
      params_(params),
      deadline_(deadline),
      sampler_(params, session.engine().target().vocab_size()),
      decoder_(session.engine().tokenizer()),
      stop_(params.stop_ids, params.stop_strings),
      round_(static_cast<std::size_t>(session.engine().target().vocab_size())),
      simulation_(params.seed) {}

Result<std::unique_ptr<Generation>> Generation::create(Session& session, const SamplingParams& params,
                                                       Deadline deadline) {
  const Session::Use use(session);
  TANDEM_RETURN_IF_ERROR(use.status());
  TANDEM_RETURN_IF_ERROR(validate(params, session.engine().target().vocab_size()));
  if (session.position() == 0) {
    return Status(Code::kInvalidRequest, "the session is empty; prefill at least one token before generating");
  }
  if (params.drafter == "on" && session.engine().drafting() == "off") {
    return Status(
        Code::kInvalidRequest,
        "drafter='on' needs an engine that drafts: on the CPU the fast graphs, on a GPU a bundle with a drafter, "
        "and an engine that was not opened with drafter='off'");
  }
  if (!params.simulate_acceptance.empty() && session.engine().drafter() == nullptr) {
    return Status(
        Code::kInvalidRequest,
        "simulate_acceptance measures a drafter: it needs a bundle with one, open with drafter 'auto' or 'on'");
  }
  if (params.pinned_tokens > session.engine().max_context() - 2) {
    return Status(Code::kInvalidRequest, "pinned_tokens is " + std::to_string(params.pinned_tokens) +
                                             ", which leaves no room in a context of " +
                                             std::to_string(session.engine().max_context()) + "; pin fewer");
  }
  TANDEM_RETURN_IF_ERROR(session.check_can_step());
  session.cancelled_ = false;
  session.stats_.time_to_first_token = 0;
  std::unique_ptr<Generation> generation(new Generation(session, params, deadline));
  generation->sampler_.accept_prompt(session.tokens_);
  return generation;
}

Generation::~Generation() {
  end_round();
  session_.seat_.leave_batch();
  session_.remember_prefix();
  session_.publish();
}

void Generation::finish(FinishReason reason) {
  finish_ = reason;
  session_.seat_.leave_batch();  // other sessions need not wait for this one's next step
}

Status Generation::draft() {
  drafts_.clear();
  measured_ = {};
  measuring_ = false;
  Engine& engine = session_.engine();
  const std::string& wish = params_.drafter == "auto" ? engine.drafting() : params_.drafter;
  const int64_t position = session_.position();
  const int most = static_cast<int>(std::min({params_.max_tokens - produced_ - 1, engine.max_context() - position,
                                              engine.target().step_rows() - 1, int64_t{DepthController::kMaxDepth}}));
  if (wish == "off" || engine.drafting() == "off") return {};
  measuring_ = true;
  if (most < 1) return {};

  const int sessions = std::max(1, session_.report_.sessions);  // that share a step, as far as can be foreseen
  double drafting = 0;                                          // seconds that the drafter took
  const auto start = Clock::now();
  session_.ngrams_.update(session_.tokens_);
  NgramDrafter::Draft lookup = session_.ngrams_.draft(most);
  if (!params_.simulate_acceptance.empty()) lookup = {};  // what is simulated is the drafter
  const auto matched = static_cast<int>(lookup.ids.size());
  const bool long_match = lookup.matched >= kLongMatch;
  const bool model = session_.can_draft();
  std::array<int, kDraftSources> available{};
  available[static_cast<std::size_t>(DraftSource::kModel)] = model ? most : 0;
  available[static_cast<std::size_t>(DraftSource::kLongMatch)] = long_match ? matched : 0;
  available[static_cast<std::size_t>(DraftSource::kShortMatch)] = long_match ? 0 : matched;

  DepthController::Choice choice;
  if (params_.draft_tokens > 0) {
    const int fixed = std::min(params_.draft_tokens, most);
    if (model) {
      choice = {DraftSource::kModel, fixed};
    } else if (matched > 0) {
      choice = {long_match ? DraftSource::kLongMatch : DraftSource::kShortMatch, std::min(fixed, matched)};
    }
  } else if (wish == "on") {
    choice = engine.depth_controller().choose_some(available, sessions);
  } else {
    choice = engine.depth_controller().choose(available, sessions);
  }
  const double looking = seconds_since(start);
  if (choice.depth > 0 && choice.source == DraftSource::kModel) {
    TANDEM_RETURN_IF_ERROR(session_.draft(choice.depth, params_.suppress_ids, drafts_, &drafting));
  } else if (choice.depth > 0) {
    lookup.ids.resize(static_cast<std::size_t>(choice.depth));
    drafts_ = std::move(lookup.ids);
  }
  // No soft token is ever predicted: what lookups found beside an image ends there.
  const auto soft = std::find_if(drafts_.begin(), drafts_.end(), [&](int32_t id) { return engine.is_placeholder(id); });
  drafts_.erase(soft, drafts_.end());
  choice.depth = static_cast<int>(drafts_.size());
  measured_.choice = choice;
  measured_.draft_seconds = looking + drafting;  // without the wait for a turn
  return {};
}

Status Generation::begin_round() {
  end_round();
  TANDEM_RETURN_IF_ERROR(session_.check_can_step());
  // The drafter reads the cache up to the last token but one.
  TANDEM_RETURN_IF_ERROR(session_.catch_up(session_.position() - 1));
  session_.seat_.announce();
  TANDEM_RETURN_IF_ERROR(draft());
  TANDEM_RETURN_IF_ERROR(session_.step(drafts_, round_));
  changes_ = session_.changes_;
  measured_.step_seconds = session_.report_.seconds;
  measured_.step_rows = session_.report_.rows;
  Stats& stats = session_.stats_;
  stats.draft_seconds += measured_.draft_seconds;
  if (stats.depths.size() <= drafts_.size()) stats.depths.resize(drafts_.size() + 1);
  ++stats.depths[drafts_.size()];
  if (!drafts_.empty()) {
    ++stats.verify_steps;
    stats.verify_seconds += measured_.step_seconds;
    stats.drafted += static_cast<int64_t>(drafts_.size());
    if (stats.accepted_by_position.size() < drafts_.size()) stats.accepted_by_position.resize(drafts_.size());
  }
  return {};
}

int32_t Generation::simulated(int32_t id) {
  const int judged = round_.judged();
  if (judged >= round_.drafted()) return id;
  const auto at = static_cast<std::size_t>(judged);
  const double chance = at < params_.simulate_acceptance.size() ? params_.simulate_acceptance[at] : 0.0;
  const int32_t draft = drafts_[at];
  if (std::uniform_real_distribution<double>()(simulation_) < chance) return draft;
  return id != draft ? id : (id + 1) % static_cast<int32_t>(session_.engine().target().vocab_size());
}

void Generation::end_round() {
  round_.drop();
  if (!measuring_) return;
  measuring_ = false;
  measured_.judged = round_.judged();
  measured_.accepted = round_.accepted();
  session_.engine().depth_controller().record(measured_);
}

Result<std::optional<Token>> Generation::next() {
  const Session::Use use(session_);
  TANDEM_RETURN_IF_ERROR(use.status());
  return advance();
}

Result<std::optional<Token>> Generation::advance() {
  const auto ended = [&](FinishReason reason) {
    finish(reason);
    return std::optional<Token>();
  };
  if (finish_ != FinishReason::kNone) return std::optional<Token>();
  const auto start = Clock::now();
  if (session_.position() >= session_.engine().max_context()) {
    if (params_.pinned_tokens < 0) return ended(FinishReason::kContext);
    TANDEM_RETURN_IF_ERROR(session_.slide(params_.pinned_tokens));
  }
  session_.seat_.set_deadline(deadline_);
  Status status = session_.seat_.check();
  if (status.ok() && (!round_.pending() || changes_ != session_.changes_)) {
    status = begin_round();
    if (!status.ok()) {
      measuring_ = false;
      session_.seat_.leave_batch();
    }
  }
  if (status.code() == Code::kCancelled) return ended(FinishReason::kCancelled);
  if (status.code() == Code::kTimeout) return ended(FinishReason::kTimeout);
  if (!status.ok()) return status;
  const auto sampling = Clock::now();
  TANDEM_ASSIGN_OR_RETURN(Sampler::Choice choice, sampler_.sample(round_.row()));
  if (!params_.simulate_acceptance.empty()) choice.id = simulated(choice.id);
  sampler_.accept(choice.id);
  session_.stats_.sample_seconds += seconds_since(sampling);

  session_.tokens_.push_back(choice.id);
  ++produced_;
  Token token{choice.id, {}, choice.logprob, round_.take(choice.id)};
  if (token.from_draft) {
    session_.cached_ = session_.position();  // its keys and values were computed with the draft
    ++session_.stats_.accepted;
    ++session_.stats_.accepted_by_position[static_cast<std::size_t>(round_.accepted() - 1)];
  }
  const bool stopped = stop_.is_stop_id(choice.id);
  if (!stopped) token.text = stop_.push(decoder_.push(choice.id));
  if (stopped || stop_.matched()) {
    finish(FinishReason::kStop);
  } else if (produced_ >= params_.max_tokens) {
    finish(FinishReason::kLength);
  } else if (session_.position() >= session_.engine().max_context() && params_.pinned_tokens < 0) {
    finish(FinishReason::kContext);
  }
  if (finish_ != FinishReason::kNone && !stop_.matched()) {
    token.text += stop_.push(decoder_.flush());
    token.text += stop_.finish();
  }

  session_.stats_.decode_tokens += 1;
  session_.stats_.decode_seconds += seconds_since(start);
  if (produced_ == 1) session_.stats_.time_to_first_token = seconds_since(start);
  return std::optional<Token>(std::move(token));
}

}  // namespace tandem
