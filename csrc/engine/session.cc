#include "engine/session.h"

#include <algorithm>
#include <chrono>

namespace tandem {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

Status Session::check(std::span<const int32_t> ids) const {
  const int64_t vocab = engine_->target().vocab_size();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab) {
      return {Code::kInvalidRequest, "token " + std::to_string(ids[i]) + " at index " + std::to_string(i) +
                                         " is outside the vocabulary (0 to " + std::to_string(vocab - 1) + ")"};
    }
  }
  const int64_t total = position() + static_cast<int64_t>(ids.size());
  if (total > engine_->max_context()) {
    return {Code::kContextLength, "the sequence would have " + std::to_string(total) + " tokens (" +
                                      std::to_string(position()) + " + " + std::to_string(ids.size()) +
                                      ") but the context holds " + std::to_string(engine_->max_context()) +
                                      "; shorten the prompt, rewind, or use a bundle with a larger context"};
  }
  return {};
}

Status Session::catch_up(int64_t until) {
  if (cached_ >= until) return {};
  const std::span<const int32_t> todo(tokens_.data() + cached_, static_cast<std::size_t>(until - cached_));
  int64_t done = 0;
  const Status status = engine_->target().prefill(*cache_, cached_, todo, cancelled_, &done);
  cached_ += done;
  return status;
}

Status Session::prefill(std::span<const int32_t> ids) {
  TANDEM_RETURN_IF_ERROR(check(ids));
  if (ids.empty()) return {};
  cancelled_ = false;
  const auto start = Clock::now();
  const int64_t before = position();
  tokens_.insert(tokens_.end(), ids.begin(), ids.end());
  // The last token waits: the step that needs its logits runs it.
  const Status status = catch_up(position() - 1);
  if (!status.ok()) {
    tokens_.resize(static_cast<std::size_t>(std::max(before, cached_)));
  }
  stats_.prefill_tokens += position() - before;
  stats_.prefill_seconds += seconds_since(start);
  return status;
}

Status Session::logits(std::span<const int32_t> ids, float* out) {
  TANDEM_RETURN_IF_ERROR(check(ids));
  if (ids.empty()) return {};
  cancelled_ = false;
  const auto start = Clock::now();
  TANDEM_RETURN_IF_ERROR(catch_up(position()));
  int64_t done = 0;
  const Status status = engine_->target().score(*cache_, cached_, ids, cancelled_, out, &done);
  tokens_.insert(tokens_.end(), ids.begin(), ids.begin() + done);
  cached_ += done;
  stats_.prefill_tokens += done;
  stats_.prefill_seconds += seconds_since(start);
  return status;
}

Status Session::rewind(int64_t target) {
  if (target < 0 || target > position()) {
    return {Code::kInvalidRequest, "cannot rewind to " + std::to_string(target) + ": the session holds " +
                                       std::to_string(position()) + " tokens"};
  }
  tokens_.resize(static_cast<std::size_t>(target));
  if (target < cached_) cached_ = cache_->rewind(target);
  return {};
}

Status Session::last_logits(std::vector<float>& out) {
  const int64_t last = position() - 1;
  TANDEM_RETURN_IF_ERROR(catch_up(last));
  out.resize(static_cast<std::size_t>(engine_->target().vocab_size()));
  int64_t done = 0;
  const std::span<const int32_t> newest(tokens_.data() + last, 1);
  TANDEM_RETURN_IF_ERROR(engine_->target().score(*cache_, last, newest, cancelled_, out.data(), &done));
  cached_ = position();
  return {};
}

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone: return "";
    case FinishReason::kStop: return "stop";
    case FinishReason::kLength: return "length";
    case FinishReason::kContext: return "context";
    case FinishReason::kCancelled: return "cancelled";
  }
  return "";
}

Generation::Generation(Session& session, const SamplingParams& params)
    : session_(session),
      params_(params),
      sampler_(params, session.engine().target().vocab_size()),
      decoder_(session.engine().tokenizer()),
      stop_(params.stop_ids, params.stop_strings) {}

Result<std::unique_ptr<Generation>> Generation::create(Session& session, const SamplingParams& params) {
  TANDEM_RETURN_IF_ERROR(validate(params, session.engine().target().vocab_size()));
  if (session.position() == 0) {
    return Status(Code::kInvalidRequest, "the session is empty; prefill at least one token before generating");
  }
  session.cancelled_ = false;
  session.stats_.time_to_first_token = 0;
  std::unique_ptr<Generation> generation(new Generation(session, params));
  generation->sampler_.accept_prompt(session.tokens_);
  return generation;
}

Result<std::optional<Token>> Generation::next() {
  if (finish_ != FinishReason::kNone) return std::optional<Token>();
  if (session_.position() >= session_.engine().max_context()) {
    finish_ = FinishReason::kContext;
    return std::optional<Token>();
  }
  const auto start = Clock::now();
  if (const Status status = session_.last_logits(logits_); !status.ok()) {
    if (status.code() != Code::kCancelled) return status;
    finish_ = FinishReason::kCancelled;
    return std::optional<Token>();
  }
  const auto sampling = Clock::now();
  TANDEM_ASSIGN_OR_RETURN(const Sampler::Choice choice, sampler_.sample(logits_));
  sampler_.accept(choice.id);
  session_.stats_.sample_seconds += seconds_since(sampling);

  session_.tokens_.push_back(choice.id);
  ++produced_;
  Token token{choice.id, {}, choice.logprob, false};
  const bool stopped = stop_.is_stop_id(choice.id);
  if (!stopped) token.text = stop_.push(decoder_.push(choice.id));
  if (stopped || stop_.matched()) {
    finish_ = FinishReason::kStop;
  } else if (produced_ >= params_.max_tokens) {
    finish_ = FinishReason::kLength;
  } else if (session_.position() >= session_.engine().max_context()) {
    finish_ = FinishReason::kContext;
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
