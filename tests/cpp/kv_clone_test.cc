// Clones of caches: each is as a deep copy would be, pages are shared until they are written, and bytes are counted.
#include <algorithm>
#include <thread>

#include "kv_fixture.h"

using namespace tandem;
using namespace fixture;

TEST(a_tree_of_clones_behaves_as_deep_copies) {
  for (KvType type : {KvType::kF32, KvType::kF16, KvType::kI8}) {
    Random random{static_cast<uint64_t>(type) + 5};
    std::vector<Sequence> all;
    all.push_back({make(type), {}});
    int clones = 0, forgotten = 0;
    for (int step = 0; step < 600; ++step) {
      const size_t which = static_cast<size_t>(random.below(static_cast<int64_t>(all.size())));
      Sequence& one = all[which];
      switch (random.below(8)) {
        case 0:
          if (all.size() < 8) all.push_back(clone(one)), ++clones;
          break;
        case 1:
          if (all.size() > 2) all.erase(all.begin() + static_cast<std::ptrdiff_t>(which));
          break;
        case 2: {
          const int64_t back = random.below(random.below(2) == 0 ? 20 : 400), before = one.position();
          rewind(one, std::max<int64_t>(0, before - back));
          forgotten += one.position() == 0 && before > back;
          break;
        }
        default: {
          const int64_t room = kContext - one.position();
          append(one, random.tokens(std::min(room, 1 + random.below(kRows))));
          if (room < kRows) rewind(one, random.below(kContext));
        }
      }
      if (step % 10 == 0) {
        for (const Sequence& each : all) CHECK_EQ(wrong_rows(each), 0);
      }
    }
    CHECK(clones > 20 && forgotten > 3);
  }
}

TEST(a_clone_copies_only_what_is_written) {
  Sequence a{make(KvType::kF16), {}};
  for (int i = 0; i < 15; ++i) append(a, Random{7}.tokens(50));
  const uint64_t all = a.cache->bytes();
  Sequence b = clone(a);
  CHECK_EQ(b.cache->bytes(), all);
  CHECK_EQ(a.cache->own_bytes(), 0u);
  CHECK_EQ(b.cache->own_bytes(), 0u);
  for (int layer = 0; layer < 4; ++layer) CHECK(a.cache->k(layer).row(749, 0) == b.cache->k(layer).row(749, 0));
  append(b, {1});
  uint64_t copied = 0;  // one page per layer
  for (const CacheLayer& layer : kLayers) {
    copied += static_cast<uint64_t>(2 * 2 * layer.kv_heads * layer.head_dim * SequenceCache::kPageSlots);
  }
  CHECK_EQ(b.cache->own_bytes(), copied);
  CHECK_EQ(a.cache->own_bytes(), copied);  // what it no longer shares
  for (int layer = 0; layer < 4; ++layer) CHECK(a.cache->k(layer).row(749, 0) != b.cache->k(layer).row(749, 0));
  CHECK(a.cache->k(2).row(500, 0) == b.cache->k(2).row(500, 0));
  const auto* rows = a.cache->k(2).row(749, 0);
  append(a, {2});  // is the only holder by now
  CHECK(a.cache->k(2).row(749, 0) == rows);
  CHECK_EQ(wrong_rows(a), 0);
  CHECK_EQ(wrong_rows(b), 0);
}

TEST(pages_tell_what_caches_share) {
  Sequence a{make(KvType::kI8), {}};
  append(a, Random{1}.tokens(60));
  Sequence b = clone(a);
  const auto ids = [](const Sequence& one) {
    std::vector<const void*> out;
    for (const PageUse& page : one.cache->pages()) out.push_back(page.id);
    return out;
  };
  CHECK(ids(a) == ids(b));
  append(b, {3});
  CHECK(ids(a) != ids(b));
}

TEST(reset_lets_shared_pages_go_and_keeps_its_own) {
  Sequence a{make(KvType::kF32), {}};
  append(a, Random{1}.tokens(60));
  const uint64_t before = a.cache->own_bytes();
  a.cache->reset();
  CHECK_EQ(a.cache->own_bytes(), before);
  a.tokens.clear();
  append(a, Random{2}.tokens(60));
  Sequence b = clone(a);
  b.cache->reset();
  CHECK_EQ(b.cache->bytes(), 0u);
  CHECK_EQ(a.cache->own_bytes(), before);
  CHECK_EQ(wrong_rows(a), 0);
}

TEST(an_abandoned_step_is_counted_as_written) {
  Sequence a{make(KvType::kF16), {}};
  for (int i = 0; i < 15; ++i) append(a, Random{3}.tokens(50));
  CHECK(a.cache->holds(700));
  CHECK(a.cache->prepare(750, kRows).ok());  // and then the step fails, having overwritten rows
  CHECK(a.cache->holds(750));
  CHECK(!a.cache->holds(700 - 1));
  CHECK_EQ(wrong_rows(a), 0);
}

TEST(prepare_refuses_what_does_not_fit) {
  const auto cache = make(KvType::kF16);
  CHECK(cache->prepare(kContext, 0).ok());
  CHECK(cache->prepare(kContext - 1, 2).code() == Code::kContextLength);
  CHECK(cache->prepare(-1, 1).code() == Code::kContextLength);
  CHECK(cache->prepare(INT64_MAX, INT64_MAX).code() == Code::kContextLength);
}

TEST(resume_from_is_where_holds_begins) {
  for (int64_t length : {1, 50, 160, 161, 300, 384, 385, 700, 1000}) {
    const auto cache = make(KvType::kF16);
    cache->written(length);
    int64_t least = 1;
    while (!cache->holds(least)) ++least;
    CHECK_EQ(cache->resume_from(), least);
  }
}

TEST(widening_keeps_what_is_there_and_makes_room) {
  for (KvType type : {KvType::kF16, KvType::kI8}) {
    for (int64_t length : {0, 50, 200, 500, 700}) {
      for (int64_t rows : {int64_t{61}, int64_t{150}, kContext}) {  // with the last, rings become whole layers
        Sequence a{make(type), {}};
        Random random{17};
        while (a.position() < length) append(a, random.tokens(50));
        rewind(a, length - std::min<int64_t>(length, 7));
        auto wide = a.cache->widened(a.position(), rows);
        CHECK(wide.ok());
        Sequence b{std::move(wide).value(), a.tokens};
        for (int64_t p = 0; p <= a.position(); ++p) CHECK_EQ(a.cache->holds(p), b.cache->holds(p));
        CHECK(b.cache->k(2).row(0, 0) == a.cache->k(2).row(0, 0));  // shared
        append(b, random.tokens(std::min(rows, kContext - b.position())));
        CHECK_EQ(wrong_rows(b), 0);
        CHECK_EQ(wrong_rows(a), 0);
      }
    }
  }
  Sequence a{make(KvType::kF16), {}};
  for (int i = 0; i < 15; ++i) append(a, Random{3}.tokens(50));
  CHECK(!a.cache->widened(500, 100).ok());  // the rings have lost that
  CHECK(!a.cache->widened(751, 100).ok());
  CHECK(!a.cache->widened(750, kRows - 1).ok());
}

TEST(clones_may_live_on_other_threads) {
  Sequence a{make(KvType::kF16), {}};
  append(a, Random{1}.tokens(60));
  std::vector<Sequence> clones;
  for (int i = 0; i < 3; ++i) clones.push_back(clone(a));
  std::vector<int> wrong(3, 0);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < 3; ++i) {
    threads.emplace_back([&, i] {
      Random random{i};
      for (int step = 0; step < 40; ++step) {
        Sequence branch = clone(clones[i]);
        append(branch, random.tokens(20));
        append(clones[i], random.tokens(10));
        wrong[i] += wrong_rows(branch) + wrong_rows(clones[i]);
      }
    });
  }
  for (int step = 0; step < 20; ++step) append(a, {5});
  for (std::thread& thread : threads) thread.join();
  for (int count : wrong) CHECK_EQ(count, 0);
  CHECK_EQ(wrong_rows(a), 0);
}
