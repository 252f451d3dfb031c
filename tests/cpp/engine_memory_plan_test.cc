// The memory plan: its parts, what fits, the refusal; and what counts as available.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/memory.h"
#include "check.h"
#include "engine/memory_plan.h"

using namespace tandem;

namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMiB = 1 << 20;

MemoryInputs small_model() {
  MemoryInputs inputs;
  inputs.path = "m.litertlm";
  inputs.model.vocab_size = 1000;
  inputs.model.hidden_size = 64;
  inputs.model.intermediate_size = 256;
  inputs.model.num_heads = 4;
  LayerSpec sliding, full;
  sliding.head_dim = full.head_dim = 32;
  sliding.kv_heads = full.kv_heads = 2;
  sliding.window = 128;
  inputs.model.layers = {sliding, full};
  inputs.quantization = "int8";
  inputs.weight_bytes = 10 * kMiB;
  inputs.signatures = {"prefill_64",    "decode",          "tandem_body_1", "tandem_body_4",
                       "tandem_fill_8", "tandem_fill_128", "tandem_head_1", "tandem_head_4"};
  inputs.max_context = 1 << 20;
  return inputs;
}

// A folder with files like those of /proc and /sys.
class FakeRoot {
 public:
  FakeRoot() : path_(fs::temp_directory_path() / ("tandem-memory-" + std::to_string(getpid()))) {}
  ~FakeRoot() { fs::remove_all(path_); }
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name) << text;
  }
  uint64_t available() const { return available_memory(path_.string() + "/"); }

 private:
  fs::path path_;
};

}  // namespace

TEST(the_cache_of_a_full_layer_grows_and_that_of_a_sliding_one_ends) {
  const MemoryInputs inputs = small_model();
  const auto cache = [&](int64_t context) { return plan_memory(inputs, context).cache; };
  // K and V, 2 heads of 32 values, 2 bytes: 256 bytes a token and layer. The ring holds 128 + 128 tokens.
  CHECK_EQ(cache(100), uint64_t{2 * 256 * 100});
  CHECK_EQ(cache(10000), uint64_t{256 * 10000 + 256 * 256});
  CHECK_EQ(cache(20000) - cache(10000), uint64_t{256 * 10000});
}

TEST(parts_follow_their_causes) {
  MemoryInputs inputs = small_model();
  const MemoryPlan f16 = plan_memory(inputs, 4096);
  CHECK_EQ(f16.weights, 10 * kMiB);
  CHECK_EQ(f16.context, 4096);
  CHECK_EQ(f16.total(), f16.weights + f16.drafter + f16.graphs + f16.cache + f16.activations + f16.runtime);
  CHECK(f16.graphs > 0 && f16.activations > 0);

  inputs.kv_type = KvType::kF32;
  CHECK_EQ(plan_memory(inputs, 4096).cache, 2 * f16.cache);
  inputs.drafter_bytes = kMiB;
  CHECK_EQ(plan_memory(inputs, 4096).drafter, kMiB);
  inputs.signatures.push_back("tandem_fill_512");
  CHECK(plan_memory(inputs, 4096).activations > f16.activations);
  CHECK(plan_memory(inputs, 4096).graphs > f16.graphs);
  inputs.quantization = "f32";
  CHECK_EQ(plan_memory(inputs, 4096).graphs, uint64_t{0});

  inputs.fast = false;  // float32, every layer as long as the context, scores of a chunk in full
  CHECK_EQ(plan_memory(inputs, 4096).cache, uint64_t{4096 * 2 * 2 * 2 * 32 * 4});
  CHECK(plan_memory(inputs, 8192).activations > plan_memory(inputs, 4096).activations);
}

TEST(largest_context_is_the_edge) {
  const MemoryInputs inputs = small_model();
  const uint64_t available = plan_memory(inputs, 5000).total();
  CHECK_EQ(largest_context(inputs, available), 5000);
  CHECK_EQ(largest_context(inputs, available - 1), 4999);
  CHECK_EQ(largest_context(inputs, UINT64_MAX), inputs.max_context);
  CHECK_EQ(largest_context(inputs, kMiB), 0);
}

TEST(refuses_what_does_not_fit_and_says_what_would) {
  const MemoryInputs inputs = small_model();
  const uint64_t available = plan_memory(inputs, 5000).total();
  CHECK(check_memory(inputs, 5000, available).ok());
  const Status status = check_memory(inputs, 5001, available);
  CHECK(status.code() == Code::kOutOfMemory);
  CHECK(status.message().find("largest context that fits is 5000") != std::string::npos);
  const Status hopeless = check_memory(inputs, 1, kMiB);
  CHECK(hopeless.code() == Code::kOutOfMemory);
  CHECK(hopeless.message().find("no context fits") != std::string::npos);
}

TEST(kv_dtype_names) {
  CHECK(parse_kv_dtype("f32").value() == KvType::kF32);
  CHECK(parse_kv_dtype("f16").value() == KvType::kF16);
  CHECK(parse_kv_dtype("int8").value() == KvType::kI8);
  CHECK(parse_kv_dtype("int4").status().code() == Code::kInvalidRequest);
}

TEST(available_is_the_least_of_what_system_and_groups_leave) {
  unsetenv("TANDEM_MEMORY_LIMIT");
  const FakeRoot root;
  CHECK_EQ(root.available(), UINT64_MAX);
  root.write("proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:    5000 kB\n");
  CHECK_EQ(root.available(), uint64_t{5000 * 1024});

  root.write("proc/self/cgroup", "4:memory:/a/b\n0::/c\n");
  CHECK_EQ(root.available(), uint64_t{5000 * 1024});
  // The outer group of version 1 is the tightest: 3000 allowed, 1500 used of which 500 are file cache.
  root.write("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "4000000\n");
  root.write("sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "1000\n");
  root.write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "3000\n");
  root.write("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "1500\n");
  root.write("sys/fs/cgroup/memory/a/memory.stat", "cache 7\ntotal_inactive_file 400\ntotal_active_file 100\n");
  CHECK_EQ(root.available(), uint64_t{2000});
  // Version 2, in a container whose path does not exist below the mount.
  root.write("sys/fs/cgroup/memory.max", "1200\n");
  root.write("sys/fs/cgroup/memory.current", "300\n");
  root.write("sys/fs/cgroup/memory.stat", "anon 200\ninactive_file 50\nactive_file 50\n");
  CHECK_EQ(root.available(), uint64_t{1000});
  root.write("sys/fs/cgroup/memory.max", "max\n");
  CHECK_EQ(root.available(), uint64_t{2000});

  setenv("TANDEM_MEMORY_LIMIT", "77", 1);
  CHECK_EQ(root.available(), uint64_t{77});
  setenv("TANDEM_MEMORY_LIMIT", "7 GB", 1);  // no number: no limit
  CHECK_EQ(root.available(), uint64_t{2000});
  unsetenv("TANDEM_MEMORY_LIMIT");
}
