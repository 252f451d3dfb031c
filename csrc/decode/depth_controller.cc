#include "decode/depth_controller.h"

#include <algorithm>
#include <cmath>

namespace tandem {
namespace {

// Before anything is known: weight of the guess, in rounds, and the guess per source.
constexpr double kPriorWeight = 2.0;
constexpr std::array<double, kDraftSources> kPriorAcceptance = {0.6, 0.7, 0.4};
constexpr double kPriorDraftShare = 0.05;  // of one row's seconds, per drafted token
constexpr double kPriorRowShare = 0.04;    // what one more row adds

constexpr double kMemory = 0.95;   // of acceptance, per observation
constexpr double kFading = 0.99;   // of positions and costs that a round did not show: they are tried again
constexpr double kGain = 0.1;      // of new measurements, once there are some
constexpr double kSurprise = 0.4;  // largest logarithmic step: a pause of the machine is no news about the model
constexpr int kFirstWait = 16, kLongestWait = 512, kShortWait = 2;

std::size_t index(int value) { return static_cast<std::size_t>(value); }

}  // namespace

DepthController::DepthController() {
  for (Source& source : sources_) source.wait = source.interval = kFirstWait;
  for (int rows = 1; rows <= kMaxDepth + 1; ++rows) ratio_[index(rows)] = std::log(1 + kPriorRowShare * (rows - 1));
}

double DepthController::step_cost(int rows) const {
  constexpr int kMost = kMaxDepth + 1;
  if (rows > kMost) return step_cost(kMost) * rows / kMost;
  double ratio = ratio_[index(rows)];
  // More rows never cost less.
  for (int more = rows + 1; more <= kMaxDepth + 1; ++more) {
    if (samples_[index(more)] > 1) ratio = std::min(ratio, ratio_[index(more)]);
  }
  if (samples_[index(rows)] < 2) {
    for (int fewer = 2; fewer < rows; ++fewer) {
      if (samples_[index(fewer)] > 1) ratio = std::max(ratio, ratio_[index(fewer)]);
    }
  }
  return std::exp(level_ + ratio);
}

double DepthController::accept_rate(int source, int position) const {
  // Unseen positions are taken to be like the one before.
  double rate = kPriorAcceptance[index(source)];
  for (int i = 1; i <= position; ++i) {
    const Position& seen = sources_[index(source)].positions[index(i - 1)];
    rate = (seen.accepted + kPriorWeight * rate) / (seen.total + kPriorWeight);
  }
  return rate;
}

DepthController::Choice DepthController::best(const std::array<int, kDraftSources>& available, int sessions,
                                              bool none_too) const {
  Choice best;
  double best_rate = none_too ? 1.0 / step_cost(sessions) : 0.0;  // tokens per second of each session
  for (int s = 0; s < kDraftSources; ++s) {
    const int most = std::min(available[index(s)], kMaxDepth);
    const double seconds = sources_[index(s)].seconds;
    const double each = seconds >= 0 ? seconds : s == 0 ? kPriorDraftShare * step_cost(1) : 0.0;
    double reached = 1.0, tokens = 1.0;  // the chance that all drafts so far are right; expected tokens
    int counted = 0;
    for (const int wanted : kDepths) {
      const int depth = std::min(wanted, most);
      if (depth <= counted) break;
      while (counted < depth) {
        reached *= accept_rate(s, ++counted);
        tokens += reached;
      }
      const double rate = tokens / (each * depth * sessions + step_cost((depth + 1) * sessions));
      if (rate > best_rate) {
        best_rate = rate;
        best = {static_cast<DraftSource>(s), depth, false};
      }
    }
  }
  return best;
}

DepthController::Choice DepthController::choose(const std::array<int, kDraftSources>& available, int sessions) {
  const std::lock_guard lock(mutex_);
  if (level_samples_ == 0) return {};  // what a plain step costs comes first
  const Choice chosen = best(available, sessions, true);
  if (chosen.depth > 0) return chosen;
  for (int s = 0; s < kDraftSources; ++s) {
    Source& source = sources_[index(s)];
    if (available[index(s)] < 1) continue;
    if (--source.wait > 0) continue;
    source.wait = source.interval;
    return {static_cast<DraftSource>(s), 1, true};
  }
  return {};
}

DepthController::Choice DepthController::choose_some(const std::array<int, kDraftSources>& available, int sessions) {
  const std::lock_guard lock(mutex_);
  return best(available, sessions, false);
}

void DepthController::record_step(int rows, double seconds) {
  if (!(seconds > 0) || rows > kMaxDepth + 1) return;
  const double measured = std::log(seconds);
  if (rows == 1) {
    const double surprise = measured - level_;
    // The first steps of a process are slower than all others: move down at once, up with care.
    if (level_samples_ == 0 || (level_samples_ < 4 && surprise < 0)) {
      level_ = measured;
    } else {
      level_ += 2 * kGain * std::clamp(surprise, -kSurprise, kSurprise);
    }
    ++level_samples_;
    return;
  }
  if (level_samples_ == 0) {  // sessions that shared their steps from the first on
    level_ = measured - ratio_[index(rows)];
    ++level_samples_;
    return;
  }
  double& ratio = ratio_[index(rows)];
  int& samples = samples_[index(rows)];
  // The first run of a graph sets its memory up and says nothing about the others.
  if (++samples == 1) return;
  if (samples == 2) {
    ratio = std::max(0.0, measured - level_);
  } else {
    const double surprise = std::clamp(measured - level_ - ratio, -kSurprise, kSurprise);
    level_ += kGain / 2 * surprise;  // everything became slower or faster, or only this did: believe half of each
    ratio = std::max(0.0, ratio + kGain * surprise);
  }
}

void DepthController::record(const Round& round) {
  const std::lock_guard lock(mutex_);
  const int depth = std::min(round.choice.depth, kMaxDepth);
  const int step_rows = std::max(depth + 1, round.step_rows);
  record_step(step_rows, round.step_seconds);
  if (depth == 0) return;
  for (int rows = 2; rows <= kMaxDepth + 1; ++rows) {
    if (rows == step_rows || samples_[index(rows)] < 2) continue;
    const double prior = std::log(1 + kPriorRowShare * (rows - 1));
    ratio_[index(rows)] = prior + (ratio_[index(rows)] - prior) * kFading;
  }
  Source& source = sources_[index(static_cast<int>(round.choice.source))];
  const double each = round.draft_seconds / depth;
  source.seconds = source.seconds < 0 ? each : source.seconds + 2 * kGain * (each - source.seconds);
  for (int i = 0; i < kMaxDepth; ++i) {
    Position& position = source.positions[index(i)];
    const bool shown = i < round.judged;
    const double keep = shown ? kMemory : kFading;
    position.accepted = position.accepted * keep + (i < round.accepted ? 1.0 : 0.0);
    position.total = position.total * keep + (shown ? 1.0 : 0.0);
  }
  if (round.judged == 0) return;
  // When drafting does not pay, how long until it is tried again: soon, if more drafts like these would change that.
  const bool hopeful = round.accepted > 0 && 2.0 / (source.seconds + step_cost(2)) > 1.0 / step_cost(1);
  if (hopeful) {
    source.interval = kFirstWait;
  } else if (round.choice.probe) {
    source.interval = std::min(source.interval * 2, kLongestWait);
  }
  source.wait = hopeful ? kShortWait : source.interval;
}

double DepthController::step_seconds(int rows) const {
  const std::lock_guard lock(mutex_);
  return step_cost(rows);
}

double DepthController::acceptance(DraftSource source, int position) const {
  const std::lock_guard lock(mutex_);
  return accept_rate(static_cast<int>(source), position);
}

}  // namespace tandem
