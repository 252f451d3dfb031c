// The scheduler over a target that only notes what it is asked: who shares a step, who waits for whom, and what ends
// the waiting. Also run under ThreadSanitizer (tests/sanitize.sh).
#include <algorithm>
#include <atomic>
#include <chrono>
#include <new>
#include <thread>
#include <vector>

#include "check.h"
#include "engine/admission.h"
#include "engine/scheduler.h"

namespace {

using namespace std::chrono_literals;
using tandem::Code;
using tandem::Scheduler;
using tandem::ScoreItem;
using tandem::Status;
using Clock = std::chrono::steady_clock;

// A step writes each id as its logits. One step at a time, or the test fails.
class FakeTarget : public tandem::Target {
 public:
  int64_t context() const override { return 1000; }
  int64_t vocab_size() const override { return 1; }
  int64_t step_rows() const override { return 8; }
  tandem::Result<std::unique_ptr<tandem::TargetCache>> new_cache() override { return Status(Code::kBackend, "none"); }
  Status prefill(tandem::TargetCache&, int64_t, std::span<const int32_t>, std::span<const tandem::SoftRows>,
                 tandem::StepGate&, int64_t*) override {
    return {};
  }
  Status save(const tandem::TargetCache&, const std::string&, const tandem::Snapshot&) const override {
    return {Code::kInvalidRequest, "no file"};
  }
  tandem::Result<tandem::Snapshot> restore(tandem::TargetCache&, const std::string&,
                                           const tandem::Sha256Digest&) const override {
    return Status(Code::kInvalidRequest, "no file");
  }
  void score(std::span<ScoreItem* const> items) override {
    const int inside = inside_++;
    CHECK_EQ(inside, 0);
    const bool thrown = throws.exchange(false);
    while (held) std::this_thread::sleep_for(100us);
    if (thrown) {
      --inside_;
      throw std::bad_alloc();
    }
    std::this_thread::sleep_for(step_time);
    int64_t rows = 0;
    for (ScoreItem* item : items) {
      ++scored;
      rows += static_cast<int64_t>(item->ids.size());
      if (item->ids.front() == kBad) {
        item->status = {Code::kOutOfMemory, "no page"};
        continue;
      }
      for (std::size_t i = 0; i < item->ids.size(); ++i) item->logits[i] = static_cast<float>(item->ids[i]);
      item->done = static_cast<int64_t>(item->ids.size());
      item->status = {};
    }
    CHECK(rows <= step_rows());
    --inside_;
  }
  // What prompts and drafts do in their turns.
  void work(Clock::duration time) {
    const int inside = inside_++;
    CHECK_EQ(inside, 0);
    std::this_thread::sleep_for(time);
    --inside_;
  }

  static constexpr int32_t kBad = -1;
  std::atomic<bool> held = false, throws = false;
  int scored = 0;  // items
  Clock::duration step_time{0};

 private:
  std::atomic<int> inside_ = 0;
};

struct Member {
  explicit Member(Scheduler& owner) : scheduler(owner), seat(owner, cancelled) {}
  Scheduler& scheduler;
  std::atomic<bool> cancelled = false;
  Scheduler::Seat seat;
  Scheduler::Report report;
  float logits[8] = {};

  // `target`: another than the scheduler's.
  Status step(std::vector<int32_t> ids, FakeTarget* target = nullptr) {
    ScoreItem item{nullptr, 0, ids, logits};
    item.target = target;
    const Status status = scheduler.score(seat, item, &report);
    if (status.ok()) {
      CHECK_EQ(item.done, static_cast<int64_t>(ids.size()));
      for (std::size_t i = 0; i < ids.size(); ++i) CHECK_EQ(logits[i], static_cast<float>(ids[i]));
    }
    return status;
  }
};

// Waits until `condition`; fails after ten seconds.
template <class Condition>
void wait_for(const Condition& condition) {
  const auto end = Clock::now() + 10s;
  while (!condition() && Clock::now() < end) std::this_thread::sleep_for(1ms);
  CHECK(condition());
}

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Starts a step that stays inside the target until `held` is false, and waits until it is there.
std::jthread hold(FakeTarget& target, Scheduler& scheduler, Member& member) {
  target.held = true;
  std::jthread thread([&] { CHECK(member.step({7}).ok()); });
  wait_for([&] { return scheduler.counters().steps > 0; });
  return thread;
}

}  // namespace

TEST(a_lone_session_never_waits) {
  FakeTarget target;
  Scheduler scheduler(target);
  Member one(scheduler);
  for (int32_t i = 0; i < 100; ++i) CHECK(one.step({i}).ok());
  const Scheduler::Counters counters = scheduler.counters();
  CHECK_EQ(counters.steps, 100);
  CHECK_EQ(counters.rows, 100);
  CHECK_EQ(counters.batch_sizes.size(), 2u);
  CHECK_EQ(counters.batch_sizes[1], 100);
}

TEST(waiting_steps_run_as_one) {
  FakeTarget target;
  Scheduler scheduler(target);
  Member first(scheduler), a(scheduler), b(scheduler), c(scheduler), bad(scheduler);
  {
    const std::jthread holding = hold(target, scheduler, first);
    // Eight rows are the most: the third does not fit beside the first two, the fourth does.
    const std::jthread steps_a([&] { CHECK(a.step({1, 2, 3}).ok()); });
    std::this_thread::sleep_for(20ms);
    const std::jthread steps_b([&] { CHECK(b.step({4, 5, 6}).ok()); });
    std::this_thread::sleep_for(20ms);
    const std::jthread steps_c([&] { CHECK(c.step({1, 2, 3, 4}).ok()); });
    std::this_thread::sleep_for(20ms);
    const std::jthread steps_bad([&] { CHECK(bad.step({FakeTarget::kBad, 2}).code() == Code::kOutOfMemory); });
    std::this_thread::sleep_for(20ms);
    target.held = false;
  }
  CHECK_EQ(a.report.sessions, 3);  // one item's error leaves the others whole
  CHECK_EQ(a.report.rows, 8);
  CHECK_EQ(b.report.sessions, 3);
  CHECK_EQ(bad.report.sessions, 3);
  CHECK_EQ(c.report.sessions, 1);
  CHECK_EQ(scheduler.counters().steps, 3);
}

TEST(items_of_another_target_are_no_part_of_a_step) {
  FakeTarget target, other;
  Scheduler scheduler(target);
  Member first(scheduler), a(scheduler), b(scheduler), moved(scheduler), also_moved(scheduler);
  {
    const std::jthread holding = hold(target, scheduler, first);
    const std::jthread stays([&] { CHECK(a.step({1}).ok()); }), stays_too([&] { CHECK(b.step({2}).ok()); });
    const std::jthread goes([&] { CHECK(moved.step({3}, &other).ok()); });
    const std::jthread goes_too([&] { CHECK(also_moved.step({4}, &other).ok()); });
    std::this_thread::sleep_for(50ms);
    target.held = false;
  }
  CHECK_EQ(a.report.sessions, 2);
  CHECK_EQ(b.report.sessions, 2);
  CHECK_EQ(moved.report.sessions, 2);
  CHECK_EQ(also_moved.report.sessions, 2);
  CHECK_EQ(target.scored, 3);
  CHECK_EQ(other.scored, 2);
}

TEST(members_of_a_batch_wait_for_each_other) {
  FakeTarget target;
  target.step_time = 20ms;
  Scheduler scheduler(target);
  constexpr int kSessions = 4, kSteps = 30;
  std::vector<std::unique_ptr<Member>> members;
  for (int i = 0; i < kSessions; ++i) members.push_back(std::make_unique<Member>(scheduler));
  {
    std::vector<std::jthread> threads;
    for (auto& member : members) {
      threads.emplace_back([&member] {
        for (int32_t i = 0; i < kSteps; ++i) CHECK(member->step({i}).ok());
        member->seat.leave_batch();
      });
    }
  }
  const Scheduler::Counters counters = scheduler.counters();
  CHECK_EQ(counters.rows, kSessions * kSteps);
  // All together but for the beginning, the end, and pauses of the machine; alone it would be four times as many.
  CHECK(counters.steps < 2 * kSteps);
}

TEST(who_left_is_not_waited_for) {
  FakeTarget target;
  target.step_time = 40ms;  // others may be waited for 10 ms
  Scheduler scheduler(target);
  Member a(scheduler), b(scheduler);
  double least = 1;  // of some rounds, since the machine may be busy
  for (int round = 0; round < 4; ++round) {
    {
      const std::jthread other([&] { CHECK(b.step({1}).ok()); });
      CHECK(a.step({1}).ok());
    }
    b.seat.leave_batch();
    const auto start = Clock::now();
    CHECK(a.step({1}).ok());
    least = std::min(least, seconds_since(start) - a.report.seconds);
  }
  CHECK(least < 0.008);
}

TEST(an_announced_step_is_waited_for) {
  FakeTarget target;
  Scheduler scheduler(target);
  Member a(scheduler), b(scheduler);
  b.seat.announce();
  {
    std::jthread other([&] { CHECK(a.step({1}).ok()); });
    std::this_thread::sleep_for(50ms);
    CHECK_EQ(scheduler.counters().steps, 0);
    double seconds = 0;
    const auto draft = [&] {
      target.work(1ms);
      return Status();
    };
    CHECK(scheduler.draft(b.seat, draft, &seconds).ok());
    CHECK(seconds > 0);
    CHECK(b.step({1, 2}).ok());
  }
  CHECK_EQ(a.report.sessions, 2);
  CHECK_EQ(a.report.rows, 3);
  a.seat.leave_batch();
  b.seat.announce();
  {
    std::jthread other([&] { CHECK(a.step({1}).ok()); });
    std::this_thread::sleep_for(20ms);
    b.seat.leave_batch();  // takes it back
  }
  CHECK_EQ(a.report.sessions, 1);
}

TEST(a_long_prompt_yields_to_steps) {
  FakeTarget target;
  target.step_time = 1ms;
  Scheduler scheduler(target);
  Member prompt(scheduler), decoder(scheduler);
  std::atomic<int> pieces = 0, steps = 0, longest = 0;
  std::atomic<bool> decoding = false;
  {
    std::jthread filling([&] {
      int row = 0, seen = 0;
      for (int i = 0; i < 40; ++i) {
        const tandem::StepTurn turn(prompt.seat);
        CHECK(turn.status().ok());
        row = steps == seen && decoding ? row + 1 : 0;
        seen = steps;
        longest = std::max<int>(longest, row);
        target.work(4ms);
        ++pieces;
      }
    });
    std::jthread stepping([&] {
      wait_for([&] { return pieces > 2; });
      decoding = true;
      while (pieces < 35) {
        CHECK(decoder.step({1}).ok());
        ++steps;
      }
      decoding = false;
    });
  }
  CHECK(steps > 10);   // about as much time as the pieces had would be a hundred
  CHECK(longest < 5);  // a busy machine may keep the decoder from coming back in time
}

TEST(cancelling_ends_the_wait_at_once) {
  FakeTarget target;
  Scheduler scheduler(target);
  Member first(scheduler), other(scheduler), third(scheduler);
  {
    const std::jthread holding = hold(target, scheduler, first);
    std::atomic<bool> step_over = false, prompt_over = false;
    std::jthread step([&] {
      CHECK(other.step({1}).code() == Code::kCancelled);
      step_over = true;
    });
    std::jthread prompt([&] {
      CHECK(third.seat.enter().code() == Code::kCancelled);
      prompt_over = true;
    });
    std::this_thread::sleep_for(20ms);
    CHECK(!step_over && !prompt_over);
    other.cancelled = third.cancelled = true;
    scheduler.recheck();
    wait_for([&] { return step_over && prompt_over; });  // while the first step is still running
    target.held = false;
  }
  other.cancelled = false;
  CHECK(other.step({1}).ok());
}

TEST(a_deadline_ends_the_wait) {
  FakeTarget target;
  Scheduler scheduler(target);
  Member first(scheduler), other(scheduler);
  {
    const std::jthread holding = hold(target, scheduler, first);
    other.seat.set_deadline(tandem::deadline_in(0.03));
    const auto start = Clock::now();
    CHECK(other.step({1}).code() == Code::kTimeout);
    CHECK(seconds_since(start) >= 0.03);
    CHECK(other.seat.enter().code() == Code::kTimeout);
    target.held = false;
  }
  other.seat.set_deadline(tandem::deadline_in(1e300));
  CHECK(other.step({1}).ok());
  other.seat.set_deadline(tandem::deadline_in(-1));
  CHECK(other.step({1}).code() == Code::kTimeout);
}

TEST(an_exception_passes_and_leaves_the_others_whole) {
  FakeTarget target;
  Scheduler scheduler(target);
  Member first(scheduler), a(scheduler), b(scheduler);
  std::atomic<int> thrown = 0, given_up = 0;
  {
    const std::jthread holding = hold(target, scheduler, first);
    const auto step = [&](Member& member) {
      try {
        if (member.step({1}).code() == Code::kBackend) ++given_up;
      } catch (const std::bad_alloc&) {
        ++thrown;
      }
    };
    std::jthread one([&] { step(a); }), two([&] { step(b); });
    std::this_thread::sleep_for(50ms);
    target.throws = true;  // not seen by the step that is held: it has looked already
    target.held = false;
  }
  CHECK(thrown + given_up >= 1);
  CHECK(a.step({1}).ok());
  CHECK(b.step({1}).ok());
}

TEST(many_threads_get_along) {
  FakeTarget target;
  Scheduler scheduler(target);
  constexpr int kSessions = 8, kRounds = 200;
  std::vector<std::unique_ptr<Member>> members;
  for (int i = 0; i < kSessions; ++i) members.push_back(std::make_unique<Member>(scheduler));
  std::atomic<int> running = kSessions;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < kSessions; ++i) {
      threads.emplace_back([&, i] {
        Member& member = *members[static_cast<std::size_t>(i)];
        for (int round = 0; round < kRounds; ++round) {
          if ((round + i) % 7 == 0) {
            const tandem::StepTurn turn(member.seat);
            if (turn.status().ok()) target.work(20us);
          } else if ((round + i) % 11 == 0) {
            member.seat.leave_batch();
          }
          if (round % 3 == 0) {
            member.seat.announce();
            double seconds = 0;
            const Status drafted = scheduler.draft(
                member.seat,
                [&] {
                  target.work(5us);
                  return Status();
                },
                &seconds);
            if (!drafted.ok()) member.seat.leave_batch();
          }
          const Status status = member.step(std::vector<int32_t>(static_cast<std::size_t>(1 + (round + i) % 4), round));
          CHECK(status.ok() || status.code() == Code::kCancelled);
          if (!status.ok()) member.cancelled = false;
        }
        member.seat.leave_batch();
        --running;
      });
    }
    threads.emplace_back([&] {  // cancels one after the other
      for (std::size_t i = 0; running > 0; i = (i + 1) % kSessions) {
        members[i]->cancelled = true;
        scheduler.recheck();
        std::this_thread::sleep_for(1ms);
        members[i]->cancelled = false;
      }
    });
  }
  CHECK(scheduler.counters().steps > 0);
}

TEST(admission_counts_promises) {
  uint64_t available = 1000;
  tandem::Admission admission("m", 300, [&] { return available; });
  auto first = admission.admit(400, 128);
  CHECK(first.ok());
  CHECK(admission.admit(301, 128).status().code() == Code::kOutOfMemory);
  {
    auto second = admission.admit(300, 128);
    CHECK(second.ok());
    const auto third = admission.admit(1, 128);
    CHECK(third.status().message().find("2 sessions") != std::string::npos);
  }
  CHECK(admission.admit(300, 128).ok());  // given back
  // What the first has taken is no longer to come, nor available.
  first.value().update(400, 350);
  available = 650;
  CHECK(admission.admit(300, 128).ok());
  CHECK(!admission.admit(301, 128).ok());
  const tandem::Admission::Ticket moved = std::move(first).value();
  CHECK(admission.admit(300, 128).ok());
  CHECK(!admission.admit(301, 128).ok());
}
