// How many tokens to draft, and from which source: the depth with the most expected tokens per second, none included.
// Learns from every round what a step costs by its number of rows, what drafting costs, and how often the draft at each
// position is right. Where several sessions share their steps, the tokens and costs of all count, as if each drafted
// alike: rows that are nearly free for one session are not for eight. Shared by all sessions of an engine, so that a
// new request starts with what was learnt. Thread-safe.
#pragma once

#include <array>
#include <mutex>

namespace tandem {

enum class DraftSource : int { kModel, kLongMatch, kShortMatch };  // the drafter, and n-grams by how much text agrees
inline constexpr int kDraftSources = 3;

class DepthController {
 public:
  static constexpr int kMaxDepth = 15;
  static constexpr int kDepths[] = {1, 2, 3, 4, 7, 15};  // those that are considered: what fills a step's rows

  struct Choice {
    DraftSource source = DraftSource::kModel;
    int depth = 0;       // 0: an ordinary step
    bool probe = false;  // drafting does not pay now; this round looks whether that has changed
  };
  struct Round {
    Choice choice;  // with the depth that was really drafted
    double draft_seconds = 0;
    double step_seconds = 0;  // of the target's step
    int step_rows = 0;        // of that step, depth + 1 or more: those of other sessions too
    int judged = 0;           // drafts that a token was compared with
    int accepted = 0;         // the first so many of them were right
  };

  DepthController();

  // `available`: how many tokens each source could draft now; `sessions`: how many share a step.
  Choice choose(const std::array<int, kDraftSources>& available, int sessions = 1);
  // The best depth of at least 1; depth 0 only when nothing is available.
  Choice choose_some(const std::array<int, kDraftSources>& available, int sessions = 1);
  void record(const Round& round);

  // What it believes, for tests and reports.
  double step_seconds(int rows) const;
  double acceptance(DraftSource source, int position) const;  // of draft `position` (from 1), those before it accepted

 private:
  struct Position {
    double accepted = 0, total = 0;  // decayed counts
  };
  struct Source {
    std::array<Position, kMaxDepth> positions;
    double seconds = -1;  // to draft one token; below 0: unknown
    int wait = 0;         // rounds without drafts until the next probe
    int interval = 0;     // the wait after a probe that fails
  };

  // Of `rows` rows; more than a step can have take several.
  double step_cost(int rows) const;
  double accept_rate(int source, int position) const;
  Choice best(const std::array<int, kDraftSources>& available, int sessions, bool none_too) const;
  void record_step(int rows, double seconds);

  mutable std::mutex mutex_;
  std::array<Source, kDraftSources> sources_;
  // Logarithms: of the seconds of one row, and of what more rows cost in comparison.
  double level_ = 0;
  int level_samples_ = 0;
  std::array<double, kMaxDepth + 2> ratio_{};
  std::array<int, kMaxDepth + 2> samples_{};
};

}  // namespace tandem
