// What this machine can do at most, for the roofline of bench/compare.py: bytes read from memory per second and int8
// multiply-adds per second, with N threads. Built by bench/machine.py with -O3 -march=native; prints one JSON object.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <thread>
#include <vector>

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif
#if defined(__AMX_INT8__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int kRounds = 40;  // short ones, of which the best counts: neighbours only ever slow a round down

std::atomic<uint64_t> sink{0};  // keeps results alive

template <class T>
struct LargePages {
  using value_type = T;
  T* allocate(std::size_t count) {
    constexpr std::size_t kLarge = std::size_t{2} << 20;
    const std::size_t bytes = (count * sizeof(T) + kLarge - 1) / kLarge * kLarge;
    void* memory = std::aligned_alloc(kLarge, bytes);
    if (memory == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t) { std::free(memory); }
  friend bool operator==(const LargePages&, const LargePages&) { return true; }
};

// Seconds of the fastest of kRounds runs of `work(thread)` on all threads at once.
double fastest(int threads, const std::function<void(int)>& work) {
  double best = 1e30;
  for (int round = 0; round < kRounds; ++round) {
    std::atomic<int> ready{0};
    std::vector<std::thread> pool;
    std::chrono::steady_clock::time_point start;
    std::atomic<bool> go{false};
    for (int i = 0; i < threads; ++i) {
      pool.emplace_back([&, i] {
        ++ready;
        while (!go) {
        }
        work(i);
      });
    }
    while (ready < threads) std::this_thread::yield();
    start = std::chrono::steady_clock::now();
    go = true;
    for (std::thread& thread : pool) thread.join();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

// Memory in pages as large as the system gives, so that nothing but the reading is measured.
std::vector<uint64_t, LargePages<uint64_t>> memory_of(std::size_t words) { return {words, 1, LargePages<uint64_t>()}; }

double bytes_per_second(int threads) {
  constexpr std::size_t kWords = std::size_t{1} << 27;  // 1 GiB per thread: beyond any cache
  std::vector<decltype(memory_of(0))> memory;
  for (int i = 0; i < threads; ++i) memory.push_back(memory_of(kWords));
  const double seconds = fastest(threads, [&](int i) {
    const uint64_t* words = memory[static_cast<std::size_t>(i)].data();
    uint64_t sums[32] = {};
    for (std::size_t at = 0; at < kWords; at += 32) {
      for (std::size_t lane = 0; lane < 32; ++lane) sums[lane] += words[at + lane];
    }
    for (const uint64_t sum : sums) sink += sum;
  });
  return static_cast<double>(threads) * kWords * sizeof(uint64_t) / seconds;
}

#if defined(__AMX_INT8__) && defined(__linux__)
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Products of tiles that stay where they are; 0 where Linux keeps tiles from the process.
double tile_macs_per_second(int threads) {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) return 0;
  constexpr int64_t kSteps = 1'000'000;
  constexpr int kTiles = 4;
  constexpr double kMacs = 16 * 16 * 64;
  const double seconds = fastest(threads, [&](int) {
    const TileConfig config;
    asm volatile("ldtilecfg %0" : : "m"(config));
    for (int64_t step = 0; step < kSteps; ++step) {
      asm volatile(
          "tdpbusd %%tmm6, %%tmm4, %%tmm0\n tdpbusd %%tmm7, %%tmm4, %%tmm1\n"
          "tdpbusd %%tmm6, %%tmm5, %%tmm2\n tdpbusd %%tmm7, %%tmm5, %%tmm3" ::);
    }
    asm volatile("tilerelease" ::: "memory");
  });
  return static_cast<double>(threads) * kSteps * kTiles * kMacs / seconds;
}
#else
double tile_macs_per_second(int) { return 0; }
#endif

// 0 where the compiler knows no int8 dot product for this processor.
double vector_macs_per_second(int threads) {
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__ARM_FEATURE_DOTPROD)
  constexpr int64_t kSteps = 2'000'000;
  constexpr int kChains = 12;  // independent sums, more than the latency needs
#if defined(__AVX512VNNI__)
  constexpr int kMacs = 64;
  using Vector = __m512i;
  const auto all = [](int value) { return _mm512_set1_epi32(value); };
  const auto dot = [](Vector sum, Vector a, Vector b) { return _mm512_dpbusd_epi32(sum, a, b); };
#elif defined(__AVXVNNI__)
  constexpr int kMacs = 32;
  using Vector = __m256i;
  const auto all = [](int value) { return _mm256_set1_epi32(value); };
  const auto dot = [](Vector sum, Vector a, Vector b) { return _mm256_dpbusd_avx_epi32(sum, a, b); };
#else
  constexpr int kMacs = 16;
  using Vector = int32x4_t;
  const auto all = [](int value) { return vdupq_n_s32(value); };
  const auto dot = [](Vector sum, Vector a, Vector b) {
    return vdotq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b));
  };
#endif
  const double seconds = fastest(threads, [&](int i) {
    Vector sums[kChains];
    for (int chain = 0; chain < kChains; ++chain) sums[chain] = all(chain);  // all different, or one would do for all
    const Vector a = all(i + 1), b = all(i + 2);
    for (int64_t step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
      for (int chain = 0; chain < kChains; ++chain) sums[chain] = dot(sums[chain], a, b);
    }
    for (const Vector& sum : sums) {
      int32_t first = 0;
      std::memcpy(&first, &sum, sizeof(first));
      sink += static_cast<uint64_t>(first);
    }
  });
  return static_cast<double>(threads) * kSteps * kChains * kMacs / seconds;
#else
  (void)threads;
  return 0;
#endif
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::max(1, std::atoi(argv[1])) : 1;
  const double bytes = bytes_per_second(threads);
  const double macs = std::max(vector_macs_per_second(threads), tile_macs_per_second(threads));
  std::printf("{\"threads\": %d, \"bytes_per_second\": %.4g, \"int8_macs_per_second\": %.4g}\n", threads, bytes, macs);
  return 0;
}
