// The index of finished prefixes: the longest usable beginning, media by content, bytes of distinct pages, LRU.
#include <map>
#include <set>

#include "kv/prefix_cache.h"
#include "kv_fixture.h"

using namespace tandem;

namespace {

using Tokens = std::vector<int32_t>;

std::shared_ptr<const void> state(int number) { return std::make_shared<const int>(number); }
int number(const PrefixCache::Hit& hit) { return hit.state ? *static_cast<const int*>(hit.state.get()) : -1; }

// A page is named by a number.
PageUse page(uintptr_t id, uint64_t bytes) { return {reinterpret_cast<const void*>(id), bytes}; }

MediaSpan medium(int64_t start, int64_t length, uint8_t content) {
  MediaSpan span{start, length, {}};
  span.digest.fill(content);
  return span;
}

bool insert(PrefixCache& cache, const Tokens& tokens, int name, std::vector<PageUse> pages, int64_t resume_from = 1,
            std::vector<MediaSpan> media = {}) {
  return cache.insert({tokens, media}, state(name), resume_from, pages);
}

PrefixCache::Hit find(PrefixCache& cache, const Tokens& tokens, std::vector<MediaSpan> media = {}) {
  return cache.find({tokens, media}, static_cast<int64_t>(tokens.size()) - 1);
}

constexpr uint64_t kPlenty = 1 << 20;

}  // namespace

TEST(the_longest_common_beginning_is_found) {
  PrefixCache cache(kPlenty);
  CHECK_EQ(number(find(cache, {1, 2, 3})), -1);
  CHECK(insert(cache, {1, 2, 3}, 1, {page(1, 10)}));
  CHECK(insert(cache, {1, 2, 9, 9, 9}, 2, {page(2, 10)}));
  CHECK(insert(cache, {5}, 3, {page(3, 10)}));
  auto hit = find(cache, {1, 2, 3, 4});
  CHECK_EQ(number(hit), 1);
  CHECK_EQ(hit.tokens, 3);
  hit = find(cache, {1, 2, 9, 9, 7});  // diverges: a part of it can be used
  CHECK_EQ(number(hit), 2);
  CHECK_EQ(hit.tokens, 4);
  CHECK_EQ(hit.state_tokens, 5);
  hit = find(cache, {1, 2, 3});  // the last token is left to compute
  CHECK_EQ(hit.tokens, 2);
  CHECK_EQ(number(find(cache, {5})), -1);
  CHECK_EQ(number(find(cache, {6, 1})), -1);
  CHECK_EQ(number(find(cache, {-1, 1})), -1);
  CHECK_EQ(number(find(cache, {})), -1);
}

TEST(states_are_listed_and_given_up) {
  PrefixCache cache(kPlenty);
  CHECK(cache.states().empty());
  const auto first = state(1), second = state(2);
  const PageUse one = page(1, 10), two = page(2, 10);
  CHECK(cache.insert({Tokens{1, 2, 3}, {}}, first, 1, {&one, 1}));
  CHECK(cache.insert({Tokens{4, 5}, {}}, second, 1, {&two, 1}));
  CHECK(cache.states().front() == second);
  CHECK_EQ(number(find(cache, {1, 2, 7})), 1);
  CHECK(cache.states().front() == first);  // the last used
  CHECK_EQ(cache.states().size(), std::size_t{2});
  cache.erase(first.get());
  cache.erase(first.get());  // no longer there
  CHECK_EQ(cache.states().size(), std::size_t{1});
  CHECK_EQ(number(find(cache, {1, 2, 7})), -1);
  CHECK_EQ(cache.stats().bytes, uint64_t{10 + 2 * 8});
}

TEST(a_state_serves_only_what_it_can_be_rewound_to) {
  PrefixCache cache(kPlenty);
  CHECK(insert(cache, {1, 2, 3, 4, 5, 6}, 1, {page(1, 10)}, 5));
  CHECK(insert(cache, {1, 2, 9}, 2, {page(2, 10)}, 1));
  auto hit = find(cache, {1, 2, 3, 4, 5, 7, 8});
  CHECK_EQ(number(hit), 1);
  CHECK_EQ(hit.tokens, 5);
  hit = find(cache, {1, 2, 3, 4, 7});  // four are shared, but the ring has lost what four would need
  CHECK_EQ(number(hit), 2);
  CHECK_EQ(hit.tokens, 2);
  hit = find(cache, {1, 2, 3, 4, 5, 6, 7});
  CHECK_EQ(hit.tokens, 6);
}

TEST(a_longer_state_replaces_those_it_covers) {
  PrefixCache cache(kPlenty);
  CHECK(insert(cache, {1, 2}, 1, {page(1, 10)}));
  CHECK(insert(cache, {1, 2, 3, 4}, 2, {page(1, 10), page(2, 10)}));
  CHECK_EQ(cache.stats().entries, 1);
  CHECK_EQ(cache.stats().evictions, 0);
  CHECK(!insert(cache, {1, 2, 3}, 3, {page(3, 10)}));     // covered
  CHECK(!insert(cache, {1, 2, 3, 4}, 4, {page(4, 10)}));  // there already
  CHECK(insert(cache, {1, 2, 3, 4, 5, 6}, 5, {page(5, 10)}, 6));
  CHECK_EQ(cache.stats().entries, 2);  // it cannot be rewound to 4
  CHECK_EQ(number(find(cache, {1, 2, 3, 9})), 2);
}

TEST(bytes_count_distinct_pages_once) {
  PrefixCache cache(kPlenty);
  CHECK(insert(cache, {1, 2}, 1, {page(1, 100), page(2, 10)}));
  CHECK_EQ(cache.stats().bytes, 110u + 16u);
  CHECK(insert(cache, {1, 3}, 2, {page(1, 100), page(3, 10)}));
  CHECK_EQ(cache.stats().bytes, 120u + 32u);
  cache.clear();
  CHECK_EQ(cache.stats().bytes, 0u);
  CHECK_EQ(cache.stats().entries, 0);
}

TEST(the_least_recently_used_goes_first) {
  PrefixCache cache(350);
  for (int i = 0; i < 3; ++i) CHECK(insert(cache, {i, 0}, i, {page(static_cast<uintptr_t>(i) + 1, 100)}));
  CHECK_EQ(number(find(cache, {0, 0, 7})), 0);  // 1 is now the oldest
  CHECK(insert(cache, {3, 0}, 3, {page(4, 100)}));
  CHECK_EQ(number(find(cache, {1, 0, 7})), -1);
  CHECK_EQ(number(find(cache, {0, 0, 7})), 0);
  CHECK_EQ(number(find(cache, {2, 0, 7})), 2);
  CHECK_EQ(cache.stats().evictions, 1);
  CHECK(!insert(cache, {4, 0}, 4, {page(5, 340)}));  // alone too large: nothing is given up for it
  CHECK_EQ(cache.stats().entries, 3);
  cache.set_budget(120);
  CHECK_EQ(cache.stats().entries, 1);
  CHECK_EQ(number(find(cache, {2, 0, 7})), 2);
}

TEST(media_are_known_by_content_and_used_whole) {
  PrefixCache cache(kPlenty);
  const Tokens tokens = {1, 0, 0, 0, 2, 3};
  CHECK(insert(cache, tokens, 1, {page(1, 10)}, 1, {medium(1, 3, 7)}));
  auto hit = find(cache, {1, 0, 0, 0, 2, 9}, {medium(1, 3, 7)});
  CHECK_EQ(hit.tokens, 5);
  hit = find(cache, {1, 5, 5, 5, 2, 9}, {medium(1, 3, 7)});  // placeholder ids do not matter
  CHECK_EQ(hit.tokens, 5);
  hit = find(cache, tokens, {medium(1, 3, 8)});  // another picture
  CHECK_EQ(hit.tokens, 1);
  hit = find(cache, tokens);  // text that looks like it
  CHECK_EQ(hit.tokens, 1);
  hit = find(cache, {1, 0, 0, 0}, {medium(1, 3, 7)});  // the last token is not used, so nor is the medium
  CHECK_EQ(hit.tokens, 1);
  hit = find(cache, {1, 0, 0, 2, 3}, {medium(1, 2, 7)});  // prepared otherwise
  CHECK_EQ(hit.tokens, 1);
  CHECK_EQ(number(find(cache, tokens, {medium(4, 3, 7)})), -1);  // a span beyond the tokens
  CHECK_EQ(number(find(cache, tokens, {medium(2, 2, 7), medium(1, 1, 7)})), -1);
  CHECK(!insert(cache, tokens, 2, {}, 1, {medium(-1, 2, 7)}));
  CHECK(insert(cache, {9, 9, 9, 9}, 3, {page(2, 10)}, 1, {medium(0, 2, 8), medium(2, 2, 8)}));  // one twice
  CHECK_EQ(find(cache, {9, 9, 9, 9, 1}, {medium(0, 2, 8), medium(2, 2, 8)}).tokens, 4);
  cache.clear();
  CHECK(insert(cache, tokens, 4, {page(1, 10)}, 1, {medium(1, 3, 8)}));
  CHECK_EQ(find(cache, tokens, {medium(1, 3, 8)}).tokens, 5);
}

TEST(statistics_count_tokens) {
  PrefixCache cache(kPlenty);
  insert(cache, {1, 2, 3}, 1, {page(1, 10)});
  find(cache, {1, 2, 3, 4, 5});
  find(cache, {7, 8});
  const auto stats = cache.stats();
  CHECK_EQ(stats.lookups, 2);
  CHECK_EQ(stats.hits, 1);
  CHECK_EQ(stats.tokens_asked, 7);
  CHECK_EQ(stats.tokens_reused, 3);
  CHECK_EQ(stats.insertions, 1);
  CHECK_EQ(stats.budget, kPlenty);
}

// Against the plain way: look at every entry.
TEST(agrees_with_a_plain_search) {
  fixture::Random random{5};
  PrefixCache cache(4000);
  struct Kept {
    Tokens tokens;
    int64_t resume_from;
  };
  std::map<int, Kept> kept;  // all that was ever inserted
  int64_t hits = 0;
  for (int round = 0; round < 3000; ++round) {
    Tokens tokens;
    for (int64_t n = 1 + random.below(12); n > 0; --n) tokens.push_back(static_cast<int32_t>(random.below(2)));
    const auto length = static_cast<int64_t>(tokens.size());
    if (random.below(3) == 0) {
      const int64_t resume_from = 1 + random.below(length);
      const std::vector<PageUse> pages = {page(static_cast<uintptr_t>(random.below(40)) + 1, 100)};
      if (cache.insert({tokens, {}}, state(round), resume_from, pages)) kept[round] = {tokens, resume_from};
      CHECK(cache.stats().bytes <= 4000);
      continue;
    }
    const auto hit = cache.find({tokens, {}}, length);
    const auto usable = [&](const Kept& one) {
      int64_t shared = 0;
      const auto size = static_cast<int64_t>(one.tokens.size());
      while (shared < std::min(length, size) &&
             one.tokens[static_cast<size_t>(shared)] == tokens[static_cast<size_t>(shared)]) {
        ++shared;
      }
      return shared == size || shared >= one.resume_from ? shared : 0;
    };
    // What was found is right; that nothing better was there can be told while nothing has been evicted.
    hits += hit.state != nullptr;
    if (hit.state) CHECK_EQ(usable(kept.at(number(hit))), hit.tokens);
    if (cache.stats().evictions == 0) {
      int64_t best = 0;
      for (const auto& [name, one] : kept) best = std::max(best, usable(one));
      CHECK_EQ(hit.tokens, best);
    }
  }
  CHECK(hits > 1000);
}

TEST(holds_clones_of_caches) {
  using namespace fixture;
  PrefixCache cache(kPlenty * 64);
  Sequence a{make(KvType::kF16), {}};
  Random random{1};
  for (int i = 0; i < 10; ++i) append(a, random.tokens(50));
  const auto key = [](const Sequence& one) { return Tokens(one.tokens.begin(), one.tokens.end()); };
  const auto keep = [&](const Sequence& one) {
    const std::shared_ptr<const SequenceCache> copy = one.cache->clone();
    return cache.insert({key(one), {}}, copy, copy->resume_from(), copy->pages());
  };
  CHECK(keep(a));
  const uint64_t first = cache.stats().bytes;
  CHECK_EQ(first, a.cache->bytes() + 500 * 8);
  Sequence b = clone(a);
  append(b, random.tokens(1));
  append(a, random.tokens(40));
  CHECK(keep(b));
  CHECK(cache.stats().bytes < first + first / 2);  // a page per layer, and the key
  Sequence c = clone(a);
  c.tokens.resize(500);
  Tokens request = key(c);
  request.push_back(1);
  const auto hit = cache.find({request, {}}, 500);
  CHECK_EQ(hit.tokens, 500);
  c.cache = static_cast<const SequenceCache*>(hit.state.get())->clone();
  rewind(c, hit.tokens);
  append(c, random.tokens(50));
  CHECK_EQ(wrong_rows(c), 0);
  CHECK_EQ(wrong_rows(a), 0);
}
