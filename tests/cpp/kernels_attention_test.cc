// Attention against a plain loop in double precision, on every instruction set that this machine has.
#include <cmath>
#include <cstdlib>
#include <memory>
#include <vector>

#include "check.h"
#include "kernels/attention.h"
#include "kernels/rope_norm.h"

using namespace tandem;

namespace {

uint32_t random_state = 1;
float random_float() {  // about normal, standard deviation 1
  float sum = 0.0f;
  for (int i = 0; i < 3; ++i) {
    random_state = random_state * 1664525u + 1013904223u;
    sum += static_cast<float>(random_state >> 8) / 8388608.0f - 1.0f;
  }
  return sum;
}

float half_to_float(uint16_t h) {
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  const float magnitude = exponent ? std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25)
                                   : std::ldexp(static_cast<float>(mantissa), -24);
  return h & 0x8000 ? -magnitude : magnitude;
}

struct Problem {
  int heads = 4, kv_heads = 2, dim = 64, tokens = 1;
  int64_t first = 0, window = 0, ring = 0;
  float scale = 0.25f, softcap = 0.0f;
  KvType type = KvType::kF32;
  bool head_major = false;
  std::vector<int32_t> block_end;
  int threads = 1;
};

// Relative error (to the largest output) of attend() on `isa`; negative if it was refused.
double error_of(const Problem& p, Isa isa, std::vector<float>* result = nullptr) {
  random_state = 7;
  int64_t last = p.first + p.tokens - 1;
  for (int32_t end : p.block_end) last = std::max<int64_t>(last, end);
  const int64_t total = last + 1, slots = p.ring > 0 ? p.ring : total;
  const size_t size = p.type == KvType::kF16 ? 2 : 4;
  std::vector<char> memory[2];
  KvView view[2];
  for (int i = 0; i < 2; ++i) {
    memory[i].assign(static_cast<size_t>(slots * p.kv_heads * p.dim) * size,
                     static_cast<char>(0xff));  // NaN where unwritten
    view[i].base = memory[i].data();
    view[i].head_stride = static_cast<int64_t>(size) * p.dim * (p.head_major ? slots : 1);
    view[i].token_stride = static_cast<int64_t>(size) * p.dim * (p.head_major ? 1 : p.kv_heads);
    view[i].ring = p.ring, view[i].type = p.type;
    std::vector<float> row(static_cast<size_t>(p.kv_heads * p.dim));
    for (int64_t t = 0; t < total; ++t) {
      for (float& x : row) x = random_float();
      append_heads(row.data(), 1, p.kv_heads, p.dim, HeadTransform(), view[i], t, isa);
    }
  }
  const auto at = [&](int which, int64_t token, int head, int d) {
    const void* row = view[which].row(token, head);
    return p.type == KvType::kF16 ? half_to_float(static_cast<const uint16_t*>(row)[d])
                                  : static_cast<const float*>(row)[d];
  };
  std::vector<float> q(static_cast<size_t>(p.tokens * p.heads * p.dim)), out(q.size(), NAN);
  for (float& x : q) x = random_float();

  AttentionCall call;
  call.shape = {p.heads, p.kv_heads, p.dim, p.scale, p.softcap};
  call.tokens = p.tokens, call.first_position = p.first, call.window = p.window;
  call.block_end = p.block_end.empty() ? nullptr : p.block_end.data();
  call.q = q.data(), call.k = view[0], call.v = view[1], call.out = out.data();
  const auto plan = plan_attention(call, isa);
  if (!plan.ok()) return -1.0;
  const std::unique_ptr<void, void (*)(void*)> workspace(
      std::aligned_alloc(64, (plan.value().workspace_bytes(p.threads) + 63) / 64 * 64), std::free);
  for (int i = 0; i < p.threads; ++i) attend(call, plan.value(), workspace.get(), i, p.threads);
  for (int i = 0; i < p.threads; ++i) attend_merge(call, plan.value(), workspace.get(), i, p.threads);
  if (result) *result = out;

  double worst = 0.0, largest = 0.0;
  for (int t = 0; t < p.tokens; ++t) {
    const int64_t position = p.first + t;
    const int64_t from = p.window > 0 ? std::max<int64_t>(0, position - p.window + 1) : 0;
    const int64_t to =
        p.block_end.empty() ? position : std::max<int64_t>(position, p.block_end[static_cast<size_t>(t)]);
    for (int h = 0; h < p.heads; ++h) {
      const int kv = h / (p.heads / p.kv_heads);
      const size_t row = static_cast<size_t>((t * p.heads + h) * p.dim);
      std::vector<double> weight;
      double peak = -1e300, sum = 0.0;
      for (int64_t key = from; key <= to; ++key) {
        double score = 0.0;
        for (int d = 0; d < p.dim; ++d) score += double(q[row + static_cast<size_t>(d)]) * double(at(0, key, kv, d));
        score *= double(p.scale);
        if (p.softcap > 0.0f) score = double(p.softcap) * std::tanh(score / double(p.softcap));
        weight.push_back(score);
        peak = std::max(peak, score);
      }
      for (double& w : weight) sum += w = std::exp(w - peak);
      for (int d = 0; d < p.dim; ++d) {
        double want = 0.0;
        for (int64_t key = from; key <= to; ++key)
          want += weight[static_cast<size_t>(key - from)] / sum * double(at(1, key, kv, d));
        const double difference = std::fabs(want - double(out[row + static_cast<size_t>(d)]));
        worst = difference <= worst ? worst : difference;  // keeps a NaN
        largest = std::max(largest, std::fabs(want));
      }
    }
  }
  return worst / largest;
}

void check_everywhere(const Problem& p) {
  for (Isa isa : available_isas()) {
    const double error = error_of(p, isa);
    if (!(error >= 0.0 && error < 5e-6)) {
      check::fail(__FILE__, __LINE__, std::string(isa_name(isa)) + ": relative error " + std::to_string(error));
    }
  }
}

}  // namespace

TEST(decode_and_verify) {
  for (KvType type : {KvType::kF32, KvType::kF16}) {
    for (int tokens : {1, 2, 3, 5}) {
      for (int64_t first : {0, 1, 63, 64, 200, 1000}) {
        Problem p;
        p.tokens = tokens, p.first = first, p.type = type;
        check_everywhere(p);
      }
    }
  }
}

TEST(groups_and_head_dims) {
  for (KvType type : {KvType::kF32, KvType::kF16}) {
    for (int dim : {4, 8, 12, 16, 80, 256, 512}) {
      for (int group : {1, 2, 3, 4, 7, 16}) {
        Problem p;
        p.kv_heads = 2, p.heads = 2 * group, p.dim = dim, p.first = 90, p.tokens = 2, p.type = type;
        p.scale = 1.0f / std::sqrt(static_cast<float>(dim));
        check_everywhere(p);
      }
    }
  }
}

TEST(prefill_with_window_and_ring) {
  for (KvType type : {KvType::kF32, KvType::kF16}) {
    for (bool head_major : {false, true}) {
      for (int tokens : {17, 64, 70, 130}) {
        Problem p;
        p.tokens = tokens, p.type = type, p.head_major = head_major, p.first = 75;
        check_everywhere(p);
        p.window = 33;
        check_everywhere(p);
        p.ring = 33 + 130;
        check_everywhere(p);
        p.first = 1000;
        check_everywhere(p);
      }
    }
  }
}

TEST(window_of_one_sees_itself) {
  Problem p;
  p.tokens = 40, p.window = 1;
  check_everywhere(p);
}

TEST(image_blocks_look_ahead) {
  Problem p;
  p.tokens = 100, p.first = 10, p.window = 50;
  for (int t = 0; t < p.tokens; ++t) p.block_end.push_back(t >= 20 && t < 90 ? p.first + 89 : -1);
  check_everywhere(p);
  p.ring = 160;
  check_everywhere(p);
}

TEST(soft_cap_and_large_scores) {
  Problem p;
  p.tokens = 20, p.first = 100, p.softcap = 5.0f, p.scale = 1.0f;
  check_everywhere(p);
  p.softcap = 0.0f, p.scale = 20.0f;  // one key takes nearly everything
  for (Isa isa : available_isas())
    CHECK(error_of(p, isa) < 1e-4);  // scores of some hundreds: their float rounding shows
}

TEST(threads_do_not_change_a_bit) {
  for (int tokens : {1, 4, 100}) {
    Problem p;
    p.tokens = tokens, p.first = 1500, p.kv_heads = 1, p.heads = 4;
    std::vector<float> one, three;
    error_of(p, available_isas().back(), &one);
    p.threads = 3;
    CHECK(error_of(p, available_isas().back(), &three) < 5e-6);
    CHECK(one == three);
  }
}

TEST(bad_calls_are_refused) {
  const Isa isa = Isa::kBaseline;
  Problem p;
  p.heads = 3;
  CHECK(error_of(p, isa) < 0.0);
  p.heads = 4, p.window = 8, p.ring = 9, p.tokens = 3;  // the first query needs 7 keys before it, and three are new: 10
  p.first = 20;
  CHECK(error_of(p, isa) < 0.0);
  p.ring = 10;
  CHECK(error_of(p, isa) >= 0.0);
}
