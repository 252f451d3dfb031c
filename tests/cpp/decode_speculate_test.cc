// Drafting: the n-gram index against a plain search, the accept rule, and the depth controller against simulated
// models.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "decode/depth_controller.h"
#include "decode/ngram_drafter.h"
#include "decode/speculate.h"

using tandem::DepthController;
using tandem::DraftRound;
using tandem::DraftSource;
using tandem::NgramDrafter;

namespace {

struct Random {
  uint32_t state;
  uint32_t next(uint32_t limit) {
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % limit;
  }
  double real() { return next(1 << 20) / double(1 << 20); }
};

// Longest agreement among the newest 16 places where the last two tokens occurred before; of equals the newest.
std::vector<int32_t> searched(const std::vector<int32_t>& t, int count, int* matched) {
  const int n = static_cast<int>(t.size());
  int best = 0, seen = 0;
  *matched = 0;
  for (int at = n - 1; at >= 2 && seen < 16; --at) {
    if (t[at - 1] != t[n - 1] || t[at - 2] != t[n - 2]) continue;
    ++seen;
    int length = 0;
    while (length < 32 && length < at && t[at - 1 - length] == t[n - 1 - length]) ++length;
    if (length > *matched) *matched = length, best = at;
  }
  std::vector<int32_t> out;
  for (int i = 0; *matched > 0 && i < count; ++i) out.push_back(best + i < n ? t[best + i] : out[best + i - n]);
  return out;
}

// A model whose step of n rows costs cost(n) and whose drafts are right with these chances; runs `rounds` rounds and
// returns its tokens per second relative to never drafting.
template <class Cost>
double simulate(DepthController& controller, const std::array<int, 3>& available, const std::vector<double>& chances,
                double draft_seconds, Cost cost, int rounds, Random& random, double noise = 0.05) {
  double seconds = 0, tokens = 0;
  for (int i = 0; i < rounds; ++i) {
    const auto choice = controller.choose(available);
    DepthController::Round round;
    round.choice = choice;
    round.draft_seconds = choice.depth * draft_seconds;
    round.step_seconds = cost(choice.depth + 1) * (1 + noise * (random.real() - 0.5));
    while (round.accepted < choice.depth && random.real() < chances[static_cast<size_t>(round.accepted)]) {
      ++round.accepted;
    }
    round.judged = std::min(choice.depth, round.accepted + 1);
    controller.record(round);
    seconds += round.draft_seconds + round.step_seconds;
    tokens += 1 + round.accepted;
  }
  return tokens / seconds * cost(1);
}

}  // namespace

TEST(ngram_drafts_equal_a_plain_search) {
  Random random{7};
  for (int trial = 0; trial < 40; ++trial) {
    NgramDrafter drafter;
    std::vector<int32_t> tokens;
    for (int step = 0; step < 120; ++step) {
      if (random.next(12) == 0) {  // forget some
        tokens.resize(random.next(static_cast<uint32_t>(tokens.size()) + 1));
        drafter.truncate(static_cast<int64_t>(tokens.size()));
      }
      const uint32_t more = 1 + random.next(3);
      for (uint32_t i = 0; i < more; ++i) tokens.push_back(static_cast<int32_t>(random.next(3)));
      drafter.update(tokens);
      int matched = 0;
      const auto want = searched(tokens, 6, &matched);
      const auto got = drafter.draft(6);
      CHECK(got.ids == want);
      CHECK_EQ(got.matched, matched);
    }
  }
}

TEST(ngram_drafter_has_nothing_to_say_about_new_text) {
  NgramDrafter drafter;
  CHECK(drafter.draft(4).ids.empty());
  const std::vector<int32_t> tokens = {1, 2, 3, 4, 5};
  drafter.update(tokens);
  CHECK(drafter.draft(4).ids.empty());
  drafter.truncate(0);
  CHECK_EQ(drafter.size(), 0);
}

TEST(a_round_gives_rows_while_the_drafts_are_right) {
  DraftRound round(2);
  CHECK(!round.pending());
  const std::vector<int32_t> drafts = {5, 6, 7};
  float* rows = round.begin(drafts);
  for (int i = 0; i < 8; ++i) rows[i] = static_cast<float>(i);
  CHECK(!round.pending());  // nothing computed yet
  round.scored();
  CHECK_EQ(round.row()[0], 0.0f);
  CHECK(round.take(5));
  CHECK_EQ(round.row()[0], 2.0f);
  CHECK(!round.take(9));
  CHECK(!round.pending());
  CHECK_EQ(round.judged(), 2);
  CHECK_EQ(round.accepted(), 1);

  round.begin(drafts);
  round.scored();
  CHECK(round.take(5) && round.take(6) && round.take(7));
  CHECK(round.pending());  // the row after the last draft: one more token
  CHECK(!round.take(7));
  CHECK_EQ(round.judged(), 3);
  CHECK_EQ(round.accepted(), 3);

  round.begin({});
  round.scored();
  CHECK(!round.take(1));
  CHECK_EQ(round.judged(), 0);
}

TEST(controller_begins_with_a_plain_step) {
  DepthController controller;
  CHECK_EQ(controller.choose({5, 0, 0}).depth, 0);
  DepthController::Round plain;
  plain.step_seconds = 0.1;
  controller.record(plain);
  CHECK(controller.choose({5, 0, 0}).depth > 0);
  CHECK_EQ(controller.choose({0, 0, 0}).depth, 0);
  CHECK_EQ(controller.choose_some({0, 0, 3}).depth > 0, true);
}

TEST(controller_finds_a_good_depth) {
  Random random{3};
  DepthController controller;
  const auto cost = [](int rows) { return 0.1 * (1 + 0.08 * (rows - 1)); };
  const std::vector<double> chances = {0.85, 0.75, 0.65, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1};
  simulate(controller, {15, 0, 0}, chances, 0.005, cost, 100, random);
  const double gain = simulate(controller, {15, 0, 0}, chances, 0.005, cost, 400, random);
  double best = 0, reached = 1, tokens = 1;
  for (int depth = 1; depth <= 15; ++depth) {
    tokens += reached *= chances[static_cast<size_t>(depth - 1)];
    best = std::max(best, tokens * 0.1 / (0.005 * depth + cost(depth + 1)));
  }
  CHECK(gain > 0.93 * best);
  CHECK(std::abs(controller.acceptance(DraftSource::kModel, 1) - 0.85) < 0.25);
}

TEST(controller_counts_what_other_sessions_pay) {
  Random random{3};
  DepthController controller;
  // Eight rows are nearly free, more are not: one session may draft seven, eight sessions together none.
  const auto cost = [](int rows) { return 0.1 * (1 + 0.01 * (rows - 1) + 0.12 * std::max(0, rows - 8)); };
  const std::vector<double> chances(15, 0.5);
  simulate(controller, {3, 0, 0}, chances, 0.001, cost, 300, random);
  for (int rows = 4; rows <= 16; rows += 4) {  // steps that sessions shared
    for (int i = 0; i < 60; ++i) {
      DepthController::Round round;
      round.step_rows = rows;
      round.step_seconds = cost(rows);
      controller.record(round);
    }
  }
  CHECK(std::abs(controller.step_seconds(16) / cost(16) - 1) < 0.2);
  CHECK(controller.choose_some({3, 0, 0}, 1).depth >= 2);
  CHECK(controller.choose({3, 0, 0}, 1).depth >= 2);
  const auto shared = controller.choose({3, 0, 0}, 8);
  CHECK(shared.depth == 0 || shared.probe);
}

TEST(controller_learns_from_shared_steps_first) {
  DepthController controller;
  DepthController::Round round;
  round.step_rows = 4;
  round.step_seconds = 0.1;
  controller.record(round);
  CHECK(controller.step_seconds(1) > 0.05 && controller.step_seconds(1) < 0.1);
}

TEST(controller_gives_up_drafts_that_do_not_pay) {
  Random random{5};
  const auto cost = [](int rows) { return 0.1 * (1 + 0.1 * (rows - 1)); };
  const std::vector<double> never(15, 0.0);
  DepthController controller;
  const double first = simulate(controller, {15, 0, 0}, never, 0.005, cost, 128, random);
  CHECK(first > 0.93);
  CHECK(simulate(controller, {15, 0, 0}, never, 0.005, cost, 1000, random) > 0.985);
  // Steps whose rows cost as much as tokens: good drafts do not help either.
  DepthController other;
  const auto dear = [](int rows) { return 0.1 * rows; };
  simulate(other, {15, 0, 0}, std::vector<double>(15, 0.9), 0.01, dear, 100, random);
  CHECK(simulate(other, {15, 0, 0}, std::vector<double>(15, 0.9), 0.01, dear, 1000, random) > 0.97);
}

TEST(controller_notices_when_drafts_become_good) {
  Random random{9};
  const auto cost = [](int rows) { return 0.1 * (1 + 0.05 * (rows - 1)); };
  DepthController controller;
  simulate(controller, {15, 0, 0}, std::vector<double>(15, 0.0), 0.005, cost, 300, random);
  simulate(controller, {15, 0, 0}, std::vector<double>(15, 0.9), 0.005, cost, 600, random);
  CHECK(simulate(controller, {15, 0, 0}, std::vector<double>(15, 0.9), 0.005, cost, 200, random) > 2.5);
}

TEST(controller_takes_the_better_source) {
  Random random{11};
  const auto cost = [](int rows) { return 0.1 * (1 + 0.05 * (rows - 1)); };
  DepthController controller;
  const std::vector<double> poor(15, 0.1), good(15, 0.9);
  for (int i = 0; i < 20; ++i) {
    simulate(controller, {0, 15, 0}, good, 0.0, cost, 10, random);
    simulate(controller, {7, 0, 0}, poor, 0.005, cost, 10, random);
  }
  CHECK(controller.choose({7, 15, 0}).source == DraftSource::kLongMatch);
}

TEST(controller_follows_a_machine_that_slows_down) {
  Random random{13};
  DepthController controller;
  const std::vector<double> good(15, 0.8);
  for (const double scale : {1.0, 1.6, 2.4, 0.8}) {
    const auto cost = [&](int rows) { return scale * 0.1 * (1 + 0.06 * (rows - 1)); };
    simulate(controller, {7, 0, 0}, good, 0.005 * scale, cost, 200, random);
    CHECK(simulate(controller, {7, 0, 0}, good, 0.005 * scale, cost, 100, random) > 2.0);
  }
}
