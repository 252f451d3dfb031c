// Speed of Tandem's own kernels. One thread is timed by its CPU time, so that neighbours disturb it little; several by
// wall time: run those on an idle machine.
//
// Attention: GFLOP/s when many tokens attend, GB/s of cache read when one does, and that as a share of the streaming
// read that this machine measures in the same run.
//   bench_kernels [threads] [isa] [only layers whose name contains this] [depth ...]
// Products of many rows with int4 and int8 weights, in GMAC/s; `python bench/machine.py` prints what the CPU can do.
//   bench_kernels products [threads]
// Products of one row with a gigabyte of weights, as decoding has them: GB/s, and the share of plain reading. What is
// compared takes turns, so that the neighbours of a moment disturb all alike.
//   bench_kernels decode [threads]
#include <time.h>

#include <algorithm>
#include <barrier>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/cpu_features.h"
#include "base/huge_pages.h"
#include "kernels/attention.h"
#include "kernels/linear.h"
#include "kernels/rope_norm.h"

using namespace tandem;

namespace {

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<void, Free>;

Memory allocate(size_t bytes) { return Memory(std::aligned_alloc(64, (bytes + 63) / 64 * 64)); }

double now(int threads) {
  timespec time;
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// Best time of `body(thread)` on all threads, each round started by a barrier.
double best_seconds(int threads, int rounds, const std::function<void(int)>& body) {
  double best = 1e9;
  std::barrier barrier(threads);
  std::vector<std::thread> pool;
  const auto work = [&](int thread) {
    for (int round = 0; round < rounds; ++round) {
      barrier.arrive_and_wait();
      const double start = now(threads);
      body(thread);
      barrier.arrive_and_wait();
      const double seconds = now(threads) - start;
      if (thread == 0) best = std::min(best, seconds);
    }
  };
  for (int i = 1; i < threads; ++i) pool.emplace_back(work, i);
  work(0);
  for (std::thread& one : pool) one.join();
  return best;
}

double read_bandwidth(int threads) {
  const size_t words = size_t{64} << 20;  // 512 MiB: far beyond any cache
  const Memory memory = allocate(words * 8);
  uint64_t* data = static_cast<uint64_t*>(memory.get());
  std::fill_n(data, words, 1);
  std::vector<uint64_t> sums(static_cast<size_t>(threads) * 8);
  const size_t share = words / static_cast<size_t>(threads);
  const double seconds = best_seconds(threads, 5, [&](int thread) {
    const uint64_t* p = data + share * static_cast<size_t>(thread);
    uint64_t sum[32] = {};
    for (size_t i = 0; i + 32 <= share; i += 32) {
      for (size_t j = 0; j < 32; ++j) sum[j] ^= p[i + j];
    }
    for (uint64_t s : sum) sums[static_cast<size_t>(thread) * 8] += s;
  });
  return static_cast<double>(words) * 8 / seconds;
}

struct Layer {
  const char* name;
  int heads, kv_heads, dim;
  int64_t window;
};

void measure(const Layer& layer, int tokens, int64_t depth, KvType type, int threads, Isa isa, double bandwidth) {
  const int64_t slots = depth + tokens;
  const int64_t size = kv_element_bytes(type), bytes = slots * layer.kv_heads * layer.dim * size;
  // Of few tokens several layers are run in turn, so that the cache is read from memory as in a real step.
  const int layers = tokens <= 8 ? static_cast<int>(std::clamp<int64_t>((int64_t{200} << 20) / (2 * bytes), 1, 64)) : 1;
  std::vector<float> scales(static_cast<size_t>(slots * layer.kv_heads), 0.01f);
  std::vector<Memory> memory;
  std::vector<AttentionCall> calls;
  const size_t row = static_cast<size_t>(layer.heads) * static_cast<size_t>(layer.dim);
  std::vector<float> q(row * static_cast<size_t>(tokens), 0.01f), out(q.size());
  for (int i = 0; i < layers; ++i) {
    AttentionCall call;
    call.shape = {layer.heads, layer.kv_heads, layer.dim, 1.0f, 0.0f};
    call.tokens = tokens, call.first_position = depth, call.window = layer.window, call.q = q.data(),
    call.out = out.data();
    for (KvView* view : {&call.k, &call.v}) {
      memory.push_back(allocate(static_cast<size_t>(bytes)));
      *view = {memory.back().get(), layer.dim * size, slots * layer.dim * size, 0, type, scales.data(), slots};
      std::fill_n(static_cast<uint16_t*>(memory.back().get()), bytes / 2, uint16_t{0x2c01});
    }
    calls.push_back(call);
  }
  const AttentionPlan plan = plan_attention(calls[0], isa).value();
  const Memory workspace = allocate(plan.workspace_bytes(threads));
  std::barrier barrier(threads);
  const double seconds = best_seconds(threads, tokens <= 8 ? 5 : 2, [&](int thread) {
    for (const AttentionCall& call : calls) {
      attend(call, plan, workspace.get(), thread, threads);
      if (plan.splits > 1) {
        barrier.arrive_and_wait();
        attend_merge(call, plan, workspace.get(), thread, threads);
        barrier.arrive_and_wait();
      }
    }
  });
  double pairs = 0.0;  // (query, key)
  for (int t = 0; t < tokens; ++t) {
    const int64_t seen = depth + t + 1;
    pairs += static_cast<double>(layer.window > 0 ? std::min(seen, layer.window) : seen);
  }
  const double flops = pairs * layer.heads * layer.dim * 4 * layers;
  const double keys = static_cast<double>(layer.window > 0 ? std::min(slots, layer.window + tokens - 1) : slots);
  const double read = keys * layer.kv_heads * layer.dim * 2.0 * static_cast<double>(size) * layers;
  std::printf("%-14s %4d %6lld  %s %10.1f %9.1f %8.1f %6.0f%%\n", layer.name, tokens, static_cast<long long>(depth),
              type == KvType::kF16   ? "f16"
              : type == KvType::kF32 ? "f32"
                                     : " i8",
              seconds / layers * 1e6, flops / seconds * 1e-9, read / seconds * 1e-9,
              100.0 * read / seconds / bandwidth);
}

// Scales of blocks are ordinary numbers: subnormal ones, which random bytes would hold, cost a hundred times as much.
void set_scales(const PackedMatrix& matrix, uint8_t* data) {
  constexpr uint16_t kScale = 0x3b20;  // as bfloat16
  constexpr float kUnit = 1.0f / 4096;
  for (int64_t group = 0; group < matrix.groups(); ++group) {
    uint8_t* scales = data + group * matrix.group_bytes() + 4 * matrix.group();
    if (matrix.byte_scales) {  // which may be any
      uint8_t* end = data + (group + 1) * matrix.group_bytes();
      for (int64_t o = matrix.group(); o > 0; --o) std::memcpy(end - 4 * o, &kUnit, 4);
      continue;
    }
    for (int64_t b = 0; b < matrix.inputs / matrix.block; ++b) {
      scales += matrix.block * matrix.group() / 2;
      for (int64_t o = 0; o < matrix.group(); ++o, scales += 2) std::memcpy(scales, &kScale, 2);
    }
  }
}

// A matrix without data in the layout that a load packs on this machine. `block`: inputs that share a scale, or 0.
PackedMatrix layout(int64_t inputs, int64_t outputs, int bits, int64_t block) {
  PackedMatrix matrix{nullptr, inputs, outputs, bits, block};
  const Result<Isa> isa = select_isa();
  matrix.tiles = isa.ok() && isa.value() == Isa::kAvx512Amx;
  matrix.wide = matrix.tiles && bits == 4 && block == 0;
  matrix.byte_scales = !matrix.tiles && block != 0;
  return matrix;
}

bool can_multiply(int threads) {
  if (linear_available() && threads >= 1) return true;
  std::fprintf(stderr, "products need AVX-512 with VNNI, and at least one thread\n");
  return false;
}

// Rows in blocks, as model/native_step.cc has them, against pieces of weights that stay in the L2 cache.
void measure_products(int64_t inputs, int64_t outputs, int bits, int64_t block, int threads) {
  constexpr int kRows = 480;
  constexpr int64_t kPieceBytes = int64_t{1} << 18;
  const PackedMatrix matrix = layout(inputs, outputs, bits, block);
  const int kBlock = linear_block(matrix);
  const auto bytes = static_cast<size_t>(matrix.bytes());
  const int64_t piece = std::max<int64_t>(1, kPieceBytes / matrix.group_bytes());
  std::vector<Memory> weights, results;
  std::vector<uint8_t> values(static_cast<size_t>(kRows * inputs));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint8_t>(i * 40503 >> 7);
  std::vector<float> scales(kRows, 1.0f);
  std::vector<int32_t> zeros(kRows, 3);
  const ByteRows rows{values.data(), inputs, scales.data(), zeros.data()};
  for (int i = 0; i < threads; ++i) {
    weights.push_back(allocate(bytes));
    auto* data = static_cast<uint8_t*>(weights.back().get());
    for (size_t at = 0; at < bytes; ++at) data[at] = static_cast<uint8_t>(at * 2654435761 >> 13);
    if (block != 0) set_scales(matrix, data);
    results.push_back(allocate(static_cast<size_t>(kRows * outputs) * sizeof(float)));
  }
  const double seconds = best_seconds(threads, 7, [&](int thread) {
    PackedMatrix own = matrix;
    own.data = static_cast<const std::byte*>(weights[static_cast<size_t>(thread)].get());
    auto* out = static_cast<float*>(results[static_cast<size_t>(thread)].get());
    for (int64_t group = 0; group < own.groups(); group += piece) {
      const int64_t last = std::min(group + piece, own.groups());
      for (int row = 0; row < kRows; row += kBlock) {
        linear(own, rows.from(row), std::min(kBlock, kRows - row), group, last,
               out + row * outputs + group * own.group(), outputs);
      }
    }
  });
  const double macs = static_cast<double>(kRows) * static_cast<double>(inputs * outputs) * threads;
  std::printf("%6lld x %-6lld int%d block %-3lld %8.1f GMAC/s\n", static_cast<long long>(inputs),
              static_cast<long long>(outputs), bits, static_cast<long long>(block), macs / seconds * 1e-9);
}

int products(int threads) {
  if (!can_multiply(threads)) return 2;
  constexpr int64_t kShapes[][2] = {{640, 2048}, {2048, 640}, {640, 1024}, {3840, 15360}, {15360, 3840}};
  for (const auto& [inputs, outputs] : kShapes) {
    measure_products(inputs, outputs, 4, 0, threads);
    for (const int64_t block : {32, 64, 128}) measure_products(inputs, outputs, 4, block, threads);
    measure_products(inputs, outputs, 8, 0, threads);
  }
  return 0;
}

// One format of weights, or plain reading; every thread has its own.
class Stream {
 public:
  // `bits` 0: plain reading.
  Stream(int bits, int64_t block, int threads) : bits_(bits), block_(block) {
    PackedMatrix shape = layout(kInputs, 64, bits == 0 ? 8 : bits, block);
    shape.outputs *= kBytes / threads / shape.bytes();
    for (int i = 0; i < threads; ++i) {
      const size_t bytes = (static_cast<size_t>(shape.bytes()) + kPage - 1) / kPage * kPage;
      memory_.emplace_back(std::aligned_alloc(kPage, bytes));
      prefer_huge_pages(memory_.back().get(), bytes);
      auto* data = static_cast<uint8_t*>(memory_.back().get());
      for (size_t at = 0; at < bytes; ++at) data[at] = static_cast<uint8_t>(at * 2654435761 >> 13);
      if (block != 0) set_scales(shape, data);
      matrices_.push_back(shape);
      matrices_.back().data = static_cast<const std::byte*>(memory_.back().get());
      out_.emplace_back(static_cast<size_t>(shape.outputs));
    }
  }

  int64_t bytes() const { return matrices_[0].bytes() * static_cast<int64_t>(matrices_.size()); }

  void read(int thread, const ByteRows& row) {
    const PackedMatrix& matrix = matrices_[static_cast<size_t>(thread)];
    float* out = out_[static_cast<size_t>(thread)].data();
    if (bits_ != 0) return linear(matrix, row, 1, 0, matrix.groups(), out, matrix.outputs);
    typedef uint64_t Words __attribute__((vector_size(64)));
    const auto* words = reinterpret_cast<const Words*>(matrix.data);
    Words sums[8] = {};
    for (int64_t i = 0; i + 8 <= matrix.bytes() / 64; i += 8) {
      for (int64_t j = 0; j < 8; ++j) sums[j] ^= words[i + j];
    }
    for (int j = 1; j < 8; ++j) sums[0] ^= sums[j];
    out[0] = static_cast<float>(sums[0][0]);
  }

  std::string name() const {
    if (bits_ == 0) return "plain reading";
    return "int" + std::to_string(bits_) + (block_ == 0 ? "" : " block " + std::to_string(block_));
  }

  static constexpr int64_t kInputs = 3840;

 private:
  static constexpr int64_t kBytes = int64_t{1} << 30;
  static constexpr size_t kPage = size_t{1} << 21;
  int bits_;
  int64_t block_;
  std::vector<Memory> memory_;
  std::vector<PackedMatrix> matrices_;
  std::vector<std::vector<float>> out_;
};

int decode(int threads) {
  if (!can_multiply(threads)) return 2;
  constexpr int kRounds = 15;
  std::vector<Stream> streams;
  streams.reserve(6);
  streams.emplace_back(0, 0, threads);
  streams.emplace_back(4, 0, threads);
  for (const int64_t block : {32, 64, 128}) streams.emplace_back(4, block, threads);
  streams.emplace_back(8, 0, threads);
  std::vector<uint8_t> values(Stream::kInputs);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint8_t>(i * 40503 >> 7);
  float scale = 1.0f;
  int32_t zero = 3;
  const ByteRows row{values.data(), Stream::kInputs, &scale, &zero};
  std::vector<std::vector<double>> rates(streams.size());
  for (int round = 0; round < kRounds; ++round) {
    for (size_t i = 0; i < streams.size(); ++i) {
      const double seconds = best_seconds(threads, 1, [&](int thread) { streams[i].read(thread, row); });
      rates[i].push_back(static_cast<double>(streams[i].bytes()) / seconds * 1e-9);
    }
  }
  double plain = 0.0;
  for (size_t i = 0; i < streams.size(); ++i) {
    std::sort(rates[i].begin(), rates[i].end());
    const double median = rates[i][kRounds / 2];
    if (i == 0) plain = median;
    std::printf("%-16s %6.1f GB/s, median of %d; best %6.1f; %4.0f %% of plain reading\n", streams[i].name().c_str(),
                median, kRounds, rates[i].back(), 100.0 * median / plain);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "products") return products(argc > 2 ? std::atoi(argv[2]) : 2);
  if (argc > 1 && std::string_view(argv[1]) == "decode") return decode(argc > 2 ? std::atoi(argv[2]) : 2);
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const auto isa = argc > 2 ? select_isa(std::string_view(argv[2])) : select_isa();
  if (!isa.ok() || threads < 1) {
    std::fprintf(
        stderr, "%s\n",
        isa.ok() ? "usage: bench_kernels [threads] [isa] [layer] [depth ...]" : isa.status().message().c_str());
    return 2;
  }
  const double bandwidth = read_bandwidth(threads);
  std::printf("%d threads, %s, read bandwidth %.1f GB/s\n", threads, isa_name(isa.value()), bandwidth * 1e-9);
  std::printf("%-14s %4s %6s  %s %10s %9s %8s %7s\n", "layer", "T", "depth", " kv", "us", "GFLOP/s", "GB/s", "of read");
  const Layer layers[] = {
      {"12B sliding", 16, 8, 256, 1024}, {"12B global", 16, 1, 512, 0}, {"270M global", 4, 1, 256, 0}};
  const std::string_view only = argc > 3 ? argv[3] : "";
  std::vector<int64_t> depths;
  for (int i = 4; i < argc; ++i) depths.push_back(std::atoll(argv[i]));
  if (depths.empty()) depths = {1024, 16384};
  for (const Layer& layer : layers) {
    if (std::string_view(layer.name).find(only) == std::string_view::npos) continue;
    for (KvType type : {KvType::kF16, KvType::kI8, KvType::kF32}) {
      for (int64_t depth : depths) {
        if (layer.window > 0 && depth != depths.front()) continue;
        for (int tokens : {1, 4, 8, 128, 512}) measure(layer, tokens, depth, type, threads, isa.value(), bandwidth);
      }
    }
  }
  return 0;
}
