// Whose turn it is. A target runs one step at a time; the sessions of an engine, each with a thread of its own, wait
// here for theirs. Steps of several sessions that wait at the same time run as one: the thread whose turn it is takes
// the others' items along, and they wake up with their results. There is no thread but the callers'. Thread-safe.
// Depends on model.
//
// Order. Drafts come first: they are short, and a step of the same session follows. A long prompt takes a turn for each
// of its steps; while both wait, steps and prompts get about half of the time each. Among themselves steps go first
// come, first served, and so do prompts.
//
// Gathering. A batch falls apart when its fastest member goes on alone: the others then miss each other's steps. So a
// step waits for the sessions of the last one that can be expected back at once: those that took no longer than a
// quarter of a step (20 ms at most) to come back the last time, and those that are known to be on their way. It waits
// for no longer than that, and a lone session never waits.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "base/status.h"
#include "model/target.h"

namespace tandem {

using Deadline = std::chrono::steady_clock::time_point;
inline constexpr Deadline kNoDeadline = Deadline::max();
// So many seconds from now; none when they are more than a year.
Deadline deadline_in(double seconds);

class Scheduler {
 public:
  // A session's place. Single owner, like the session; must not outlive the scheduler. As a gate it lets the steps of a
  // prompt in.
  class Seat : public StepGate {
   public:
    // Waiting ends with kCancelled when `cancelled` turns true (see recheck()) ...
    Seat(Scheduler& scheduler, const std::atomic<bool>& cancelled) : scheduler_(scheduler), cancelled_(cancelled) {}
    ~Seat() override { leave_batch(); }
    Seat(const Seat&) = delete;
    Seat& operator=(const Seat&) = delete;

    // ... and with kTimeout at the deadline.
    void set_deadline(Deadline deadline) { deadline_ = deadline; }
    Status check() const;

    Status enter() override { return scheduler_.enter(*this, Kind::kPrompt); }
    void leave() override { scheduler_.leave(Kind::kPrompt); }
    const std::atomic<bool>& cancelled() const override { return cancelled_; }

    // Says that a step comes next, before anything that takes its owner's time: others may wait for it.
    void announce() { scheduler_.announce(*this); }
    // Says that no step comes for now: nobody need wait. Also takes announce() back.
    void leave_batch() { scheduler_.leave_batch(*this); }

   private:
    friend class Scheduler;
    Scheduler& scheduler_;
    const std::atomic<bool>& cancelled_;
    Deadline deadline_ = kNoDeadline;
    // Guarded by the scheduler's mutex.
    bool announced_ = false;
    Deadline step_end_ = kNoDeadline;      // of its newest step, until it is heard of again
    std::chrono::duration<double> gap_{};  // from there until it was heard of, the last time
  };

  // The step that a session's item was part of.
  struct Report {
    double seconds = 0;  // the step alone, without waiting
    int rows = 0;        // of all items
    int sessions = 0;
  };

  struct Counters {
    int64_t steps = 0;                 // with logits; not those of prompts
    int64_t rows = 0;                  // of these steps
    std::vector<int64_t> batch_sizes;  // steps with 0, 1, 2, ... sessions
  };

  // `target` must outlive the scheduler, and nobody else may call it meanwhile.
  explicit Scheduler(Target& target) : target_(target) {}

  // Runs `item` in a step and returns its status.
  Status score(Seat& seat, ScoreItem& item, Report* report = nullptr);

  // Runs `work`, which makes drafts for the session's next step, while no step runs. `*seconds`: what it took.
  Status draft(Seat& seat, const std::function<Status()>& work, double* seconds);

  // Must follow when a seat's `cancelled` was set, so that whoever waits notices.
  void recheck();

  Counters counters() const;

 private:
  using Clock = std::chrono::steady_clock;
  enum class Kind { kDraft, kPrompt, kStep };
  enum class State { kWaiting, kRunning, kTaken, kDone };

  struct Waiter {
    Seat& seat;
    Kind kind;
    ScoreItem* item = nullptr;
    State state = State::kWaiting;
    Report report = {};
    std::condition_variable changed{};
  };
  using Queue = std::vector<Waiter*>;

  Status enter(Seat& seat, Kind kind);
  void leave(Kind kind);
  void announce(Seat& seat);
  void leave_batch(Seat& seat);

  Queue& queue(Kind kind) { return queues_[static_cast<int>(kind)]; }
  Target& target_of(const Waiter& waiter) const { return waiter.item->target ? *waiter.item->target : target_; }
  int64_t rows_of(const Waiter& waiter) const;
  // The functions below need the mutex to be held.
  // Returns when the waiter's turn has come or another thread has run its item; else with the reason for giving up.
  Status wait(std::unique_lock<std::mutex>& lock, Waiter& waiter);
  // Gives the turn to whoever is due, if nobody has it.
  void dispatch();
  void grant(Waiter& waiter);
  void run_batch(std::unique_lock<std::mutex>& lock, Waiter& leader);
  void finish_batch(double seconds);
  // Notes that the seat was heard of.
  void heard(Seat& seat);
  // Whether sessions are on their way that a step should wait for.
  bool expecting();

  Target& target_;
  mutable std::mutex mutex_;
  Queue queues_[3];
  bool busy_ = false;        // somebody has the turn
  Clock::time_point since_;  // when a draft or prompt got it
  Queue batch_;              // whose items the running step has
  double owed_ = 0;          // seconds that steps may take before the next step of a prompt
  std::vector<Seat*> expected_;
  Clock::time_point expected_until_;  // but for those that are announced
  Counters counters_;
};

}  // namespace tandem
