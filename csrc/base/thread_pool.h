// A pool for short parallel loops between the backend's own: the caller takes part, workers sleep in the kernel when
// idle so that they never compete with XNNPACK's threads. Depends on nothing.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace tandem {

class ThreadPool {
 public:
  // `threads` counts the caller: threads - 1 workers are started.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Whether workers poll for longer before they sleep (some 50 us): for steps whose products all run here, so that
  // nothing else wants the cores between two loops.
  void stay_awake(bool awake) { awake_ = awake; }

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(index) for every index in [0, count), spread over the pool as threads become free, and returns when all
  // are done; on a busy machine the caller may do them all. count < 2^20. One caller at a time; `body` must not throw
  // and must not call run().
  void run(int64_t count, const std::function<void(int64_t)>& body);

 private:
  void work();
  // Takes items of the round until none is left.
  void drain(uint64_t round);

  std::vector<std::thread> workers_;
  const std::function<void(int64_t)>* body_ = nullptr;
  // What is left to take: round, count and next item in one word, so that a worker that wakes up late can neither take
  // an item of a later round nor be waited for.
  std::atomic<uint64_t> ticket_ = 0;
  std::atomic<int64_t> done_ = 0;    // items of the round
  std::atomic<uint32_t> round_ = 0;  // workers wait for it to change
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> awake_ = false;
};

}  // namespace tandem
