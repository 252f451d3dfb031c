#include <atomic>
#include <vector>

#include "base/thread_pool.h"
#include "check.h"

TEST(every_index_once) {
  for (const int threads : {1, 2, 3, 8}) {
    tandem::ThreadPool pool(threads);
    CHECK_EQ(pool.threads(), threads);
    for (int round = 0; round < 2000; ++round) {
      std::vector<std::atomic<int>> hits(static_cast<std::size_t>(round % 37));
      pool.run(static_cast<int64_t>(hits.size()), [&](int64_t i) { ++hits[static_cast<std::size_t>(i)]; });
      for (const auto& hit : hits) CHECK_EQ(hit.load(), 1);
    }
  }
}

TEST(idle_pool_stops) {
  const tandem::ThreadPool pool(4);
  CHECK_EQ(pool.threads(), 4);
}
