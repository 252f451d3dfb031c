#include "base/thread_pool.h"

namespace tandem {
namespace {

// Polls before sleeping: long enough to catch the next loop of the same operator, far shorter than a matrix product.
constexpr int kSpins = 200;

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

void ThreadPool::drain() {
  for (int64_t i = next_.fetch_add(1); i < count_; i = next_.fetch_add(1)) (*body_)(i);
}

void ThreadPool::work() {
  uint32_t seen = 0;
  while (true) {
    for (int spin = 0; spin < kSpins && round_.load(std::memory_order_acquire) == seen; ++spin) pause();
    round_.wait(seen, std::memory_order_acquire);
    seen = round_.load(std::memory_order_acquire);
    if (stopping_) return;
    drain();
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

void ThreadPool::run(int64_t count, const std::function<void(int64_t)>& body) {
  if (count <= 1 || workers_.empty()) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  body_ = &body;
  count_ = count;
  next_ = 0;
  busy_ = static_cast<int>(workers_.size());
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  drain();
  while (busy_.load(std::memory_order_acquire) != 0) pause();
}

}  // namespace tandem
