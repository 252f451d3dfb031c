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

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(index) for every index in [0, count), spread over the pool as threads become free, and returns when all
  // are done. One caller at a time; `body` must not throw and must not call run().
  void run(int64_t count, const std::function<void(int64_t)>& body);

 private:
  void work();
  void drain();

  std::vector<std::thread> workers_;
  const std::function<void(int64_t)>* body_ = nullptr;
  int64_t count_ = 0;
  std::atomic<int64_t> next_ = 0;
  std::atomic<int> busy_ = 0;        // workers that have not finished the current round
  std::atomic<uint32_t> round_ = 0;  // workers wait for it to change
  std::atomic<bool> stopping_ = false;
};

}  // namespace tandem
