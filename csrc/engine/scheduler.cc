#include "engine/scheduler.h"

#include <algorithm>

namespace tandem {
namespace {

// How long a step waits for sessions that should be back at once, as a share of the last step, and at most. A step
// costs about the same with one more row: waiting this long for that row is cheap, and in vain at most once per
// session.
constexpr double kGatherShare = 0.25;
constexpr double kGatherMost = 0.02;  // seconds

void remove(auto& list, const auto* one) { std::erase(list, one); }

}  // namespace

Deadline deadline_in(double seconds) {
  constexpr double kYear = 366.0 * 24 * 3600;
  if (seconds > kYear) return kNoDeadline;
  return std::chrono::steady_clock::now() +
         std::chrono::duration_cast<Deadline::duration>(std::chrono::duration<double>(std::max(0.0, seconds)));
}

Status Scheduler::Seat::check() const {
  if (cancelled_) return {Code::kCancelled, "cancelled"};
  if (deadline_ != kNoDeadline && Clock::now() >= deadline_) {
    return {Code::kTimeout, "the time limit passed; the session keeps what was done"};
  }
  return {};
}

int64_t Scheduler::rows_of(const Waiter& waiter) const {
  return std::min(static_cast<int64_t>(waiter.item->ids.size()), target_of(waiter).step_rows());
}

void Scheduler::heard(Seat& seat) {
  if (seat.step_end_ == kNoDeadline) return;
  seat.gap_ = Clock::now() - seat.step_end_;
  seat.step_end_ = kNoDeadline;
}

bool Scheduler::expecting() {
  if (Clock::now() >= expected_until_) {
    std::erase_if(expected_, [](const Seat* seat) { return !seat->announced_; });
  }
  return !expected_.empty();
}

void Scheduler::announce(Seat& seat) {
  const std::lock_guard lock(mutex_);
  heard(seat);
  seat.announced_ = true;
  remove(expected_, &seat);
  expected_.push_back(&seat);
}

void Scheduler::leave_batch(Seat& seat) {
  const std::lock_guard lock(mutex_);
  seat.announced_ = false;
  seat.step_end_ = kNoDeadline;
  remove(expected_, &seat);
  dispatch();
}

void Scheduler::recheck() {
  const std::lock_guard lock(mutex_);
  for (const Queue& waiters : queues_) {
    for (Waiter* waiter : waiters) waiter->changed.notify_one();
  }
}

Scheduler::Counters Scheduler::counters() const {
  const std::lock_guard lock(mutex_);
  return counters_;
}

void Scheduler::grant(Waiter& waiter) {
  remove(queue(waiter.kind), &waiter);
  busy_ = true;
  waiter.state = State::kRunning;
  waiter.changed.notify_one();
}

void Scheduler::dispatch() {
  if (busy_) return;
  const Queue &drafts = queue(Kind::kDraft), &prompts = queue(Kind::kPrompt), &steps = queue(Kind::kStep);
  if (!drafts.empty()) return grant(*drafts.front());
  if (prompts.empty() || owed_ > 0) {
    int64_t rows = 0;
    for (const Waiter* waiter : steps) rows += rows_of(*waiter);
    const int64_t most = steps.empty() ? target_.step_rows() : target_of(*steps.front()).step_rows();
    if (rows < most && expecting()) {
      // One of those that wait looks again when the waiting is over; it may not know yet that there is such a time.
      if (!steps.empty()) {
        steps.front()->changed.notify_one();
      } else if (!prompts.empty()) {
        prompts.front()->changed.notify_one();
      }
      return;
    }
    if (!steps.empty()) return grant(*steps.front());
  }
  if (!prompts.empty()) grant(*prompts.front());
}

Status Scheduler::wait(std::unique_lock<std::mutex>& lock, Waiter& waiter) {
  Seat& seat = waiter.seat;
  queue(waiter.kind).push_back(&waiter);
  while (waiter.state == State::kWaiting) {
    dispatch();
    if (waiter.state != State::kWaiting) break;
    if (const Status status = seat.check(); !status.ok()) {
      remove(queue(waiter.kind), &waiter);
      dispatch();
      return status;
    }
    Deadline until = seat.deadline_;
    if (!busy_ && expected_until_ > Clock::now()) until = std::min(until, expected_until_);
    if (until == kNoDeadline) {
      waiter.changed.wait(lock);
    } else {
      waiter.changed.wait_until(lock, until);
    }
  }
  while (waiter.state == State::kTaken) waiter.changed.wait(lock);
  return {};
}

Status Scheduler::enter(Seat& seat, Kind kind) {
  std::unique_lock lock(mutex_);
  // A prompt is no step: nobody need wait for this session.
  if (kind == Kind::kPrompt) {
    seat.announced_ = false;
    seat.step_end_ = kNoDeadline;
    remove(expected_, &seat);
  }
  if (const Status status = seat.check(); !status.ok()) {
    dispatch();
    return status;
  }
  Waiter waiter{seat, kind};
  TANDEM_RETURN_IF_ERROR(wait(lock, waiter));
  since_ = Clock::now();
  return {};
}

void Scheduler::leave(Kind kind) {
  const std::lock_guard lock(mutex_);
  const double seconds = std::chrono::duration<double>(Clock::now() - since_).count();
  owed_ = kind == Kind::kPrompt ? seconds : owed_ - seconds;
  busy_ = false;
  dispatch();
}

Status Scheduler::draft(Seat& seat, const std::function<Status()>& work, double* seconds) {
  TANDEM_RETURN_IF_ERROR(enter(seat, Kind::kDraft));
  struct Leave {
    Scheduler& scheduler;
    ~Leave() { scheduler.leave(Kind::kDraft); }
  } const leave{*this};
  const auto start = Clock::now();
  const Status status = work();
  *seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return status;
}

Status Scheduler::score(Seat& seat, ScoreItem& item, Report* report) {
  std::unique_lock lock(mutex_);
  heard(seat);
  seat.announced_ = false;
  remove(expected_, &seat);
  if (const Status status = seat.check(); !status.ok()) {
    dispatch();  // others may have waited for this step
    return status;
  }
  Waiter waiter{seat, Kind::kStep, &item};
  TANDEM_RETURN_IF_ERROR(wait(lock, waiter));
  if (waiter.state == State::kRunning) run_batch(lock, waiter);
  if (report != nullptr) *report = waiter.report;
  return item.status;
}

void Scheduler::run_batch(std::unique_lock<std::mutex>& lock, Waiter& leader) {
  Target& target = target_of(leader);
  batch_.assign(1, &leader);
  int64_t rows = rows_of(leader);
  for (Waiter* waiter : Queue(queue(Kind::kStep))) {
    // What does not fit now keeps its place in the queue, and the first there is always taken. So does what belongs to
    // another target, after the engine fell back to one.
    if (&target_of(*waiter) != &target || rows + rows_of(*waiter) > target.step_rows()) continue;
    rows += rows_of(*waiter);
    remove(queue(Kind::kStep), waiter);
    waiter->state = State::kTaken;
    batch_.push_back(waiter);
  }
  std::vector<ScoreItem*> items;
  for (const Waiter* waiter : batch_) {
    items.push_back(waiter->item);
    waiter->item->done = 0;
    waiter->item->status = {Code::kBackend, "the step was given up"};  // unless the target says better
  }
  for (Waiter* waiter : batch_) waiter->report = {0, static_cast<int>(rows), static_cast<int>(batch_.size())};
  ++counters_.steps;
  counters_.rows += rows;
  if (counters_.batch_sizes.size() <= batch_.size()) counters_.batch_sizes.resize(batch_.size() + 1);
  ++counters_.batch_sizes[batch_.size()];
  expected_.reserve(expected_.size() + batch_.size());  // finishing must not fail

  const auto start = Clock::now();
  struct Finish {  // however the target returns
    Scheduler& scheduler;
    std::unique_lock<std::mutex>& lock;
    Clock::time_point start;
    ~Finish() {
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      lock.lock();
      scheduler.finish_batch(seconds);
    }
  } const finish{*this, lock, start};
  lock.unlock();
  target.score(items);
}

void Scheduler::finish_batch(double seconds) {
  const auto now = Clock::now();
  const std::chrono::duration<double> patience(std::min(kGatherShare * seconds, kGatherMost));
  expected_until_ = now + std::chrono::duration_cast<Clock::duration>(patience);
  for (Waiter* waiter : batch_) {
    waiter->report.seconds = seconds;
    waiter->seat.step_end_ = now;
    if (waiter->seat.gap_ <= patience) expected_.push_back(&waiter->seat);
    const bool follower = waiter->state == State::kTaken;
    waiter->state = State::kDone;
    if (follower) waiter->changed.notify_one();
  }
  batch_.clear();
  owed_ -= seconds;
  busy_ = false;
  dispatch();
}

}  // namespace tandem
