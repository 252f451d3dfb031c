// The table behind the C ABI's handles.
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "capi/handles.h"
#include "check.h"

namespace {

using Table = tandem::capi::HandleTable<int, 1>;
using OtherTable = tandem::capi::HandleTable<int, 2>;

TEST(finds_what_was_put_in) {
  Table table;
  const uint64_t a = table.insert(std::make_shared<int>(1)), b = table.insert(std::make_shared<int>(2));
  CHECK(a != 0 && b != 0 && a != b);
  CHECK_EQ(*table.find(a), 1);
  CHECK_EQ(*table.find(b), 2);
}

TEST(a_removed_handle_stays_dead) {
  Table table;
  std::set<uint64_t> used;
  for (int i = 0; i < 1000; ++i) {
    const uint64_t handle = table.insert(std::make_shared<int>(i));
    CHECK(used.insert(handle).second);  // though the slot is the same
    const auto removed = table.remove(handle);
    CHECK_EQ(*removed, i);
    CHECK(table.remove(handle) == nullptr);
  }
  const uint64_t live = table.insert(std::make_shared<int>(-1));
  for (const uint64_t handle : used) CHECK(table.find(handle) == nullptr);
  CHECK_EQ(*table.find(live), -1);
}

TEST(an_object_outlives_its_handle_while_it_is_used) {
  Table table;
  const uint64_t handle = table.insert(std::make_shared<int>(7));
  const std::shared_ptr<int> used = table.find(handle);
  CHECK(table.remove(handle) != nullptr);
  CHECK_EQ(*used, 7);
  CHECK_EQ(used.use_count(), 1);
}

TEST(made_up_handles_are_refused) {
  Table table;
  OtherTable other;
  const uint64_t handle = table.insert(std::make_shared<int>(1));
  CHECK(other.insert(std::make_shared<int>(2)) != handle);
  CHECK(other.find(handle) == nullptr);  // another kind
  CHECK(table.find(0) == nullptr);
  for (int bit = 0; bit < 64; ++bit) CHECK(table.find(handle ^ uint64_t{1} << bit) == nullptr);
  CHECK(table.find(handle) != nullptr);
}

TEST(threads_share_a_table) {
  Table table;
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 2000; ++i) {
        const uint64_t handle = table.insert(std::make_shared<int>(t * 10000 + i));
        const auto found = table.find(handle);
        wrong[static_cast<std::size_t>(t)] += found == nullptr || *found != t * 10000 + i;
        wrong[static_cast<std::size_t>(t)] += table.remove(handle) == nullptr;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int count : wrong) CHECK_EQ(count, 0);
}

}  // namespace
