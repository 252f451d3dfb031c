#include "base/thread_pool.h"

namespace tandem {
namespace {

// Polls before sleeping: long enough to catch the next loop of the same operator, far shorter than a matrix product; or
// to catch the next loop behind what a step does for one row in between.
constexpr int kSpins = 200, kAwakeSpins = 1500;

// The parts of a ticket: 24 bits of the round's number, 20 of the count, 20 of the next item.
constexpr int kRoundShift = 40, kCountShift = 20;
constexpr uint64_t kItems = (uint64_t{1} << 20) - 1, kRounds = (uint64_t{1} << 24) - 1;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
}

ThreadPool::~ThreadPool() {
  stopping_ = true;
  round_.fetch_add(1);
  round_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::drain(uint64_t round) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (ticket >> kRoundShift == round && (ticket & kItems) < (ticket >> kCountShift & kItems)) {
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
    (*body_)(static_cast<int64_t>(ticket & kItems));
    done_.fetch_add(1, std::memory_order_release);
    ticket = ticket_.load(std::memory_order_acquire);
  }
}

void ThreadPool::work() {
  uint32_t seen = 0;
  while (true) {
    const int spins = awake_.load(std::memory_order_relaxed) ? kAwakeSpins : kSpins;
    for (int spin = 0; spin < spins && round_.load(std::memory_order_acquire) == seen; ++spin) pause();
    round_.wait(seen, std::memory_order_acquire);
    seen = round_.load(std::memory_order_acquire);
    if (stopping_) return;
    drain(seen & kRounds);
  }
}

void ThreadPool::run(int64_t count, const std::function<void(int64_t)>& body) {
  if (count <= 1 || workers_.empty()) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  body_ = &body;
  done_.store(0, std::memory_order_relaxed);
  const uint32_t next = round_.load(std::memory_order_relaxed) + 1;
  const uint64_t round = next & kRounds;
  ticket_.store(round << kRoundShift | static_cast<uint64_t>(count) << kCountShift, std::memory_order_release);
  round_.store(next, std::memory_order_release);
  round_.notify_all();
  drain(round);
  while (done_.load(std::memory_order_acquire) != count) pause();
}

}  // namespace tandem
