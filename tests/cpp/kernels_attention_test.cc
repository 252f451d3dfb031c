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
  int64_t page_slots = 0;  // 0: contiguous; else pages of both K and V
  std::vector<int32_t> block_end;
  int threads = 1;
  bool query_of_last_only = false;  // the last token's query does not depend on how many there are
  bool against_input = false;       // compare with attention over what was appended, not over what the cache made of it
};

// Relative error (to the largest output) of attend() on `isa`; negative if it was refused.
double error_of(const Problem& p, Isa isa, std::vector<float>* result = nullptr, bool* bfloat = nullptr) {
  random_state = 7;
  int64_t last = p.first + p.tokens - 1;
  for (int32_t end : p.block_end) last = std::max<int64_t>(last, end);
  const int64_t total = last + 1, slots = p.ring > 0 ? p.ring : total;
  const size_t size = static_cast<size_t>(kv_element_bytes(p.type));
  std::vector<char> memory[2];
  std::vector<float> scales[2];
  std::vector<double> exact[2];  // [token][kv head][dim]: what was appended, later what the cache made of it
  KvView view[2];
  std::vector<std::vector<char>> pages;
  std::vector<char*> table;
  if (p.page_slots > 0) {
    const int64_t rows = p.page_slots * p.kv_heads, page_bytes = 2 * rows * (p.dim * static_cast<int64_t>(size) + 4);
    for (int64_t first = 0; first < slots; first += p.page_slots) {
      pages.emplace_back(static_cast<size_t>(page_bytes), static_cast<char>(0xff));
      table.push_back(pages.back().data());
    }
    for (int i = 0; i < 2; ++i) {
      view[i].pages = table.data(), view[i].page_slots = p.page_slots;
      view[i].page_offset = i * rows * p.dim * static_cast<int64_t>(size);
      view[i].page_scales_offset = 2 * rows * p.dim * static_cast<int64_t>(size) + i * rows * 4;
    }
  }
  for (int i = 0; i < 2; ++i) {
    memory[i].assign(static_cast<size_t>(slots * p.kv_heads * p.dim) * size,
                     static_cast<char>(0xff));  // NaN where unwritten
    const int64_t together = p.page_slots > 0 ? p.page_slots : slots;
    if (p.page_slots == 0) view[i].base = memory[i].data();
    view[i].head_stride = static_cast<int64_t>(size) * p.dim * (p.head_major ? together : 1);
    view[i].token_stride = static_cast<int64_t>(size) * p.dim * (p.head_major ? 1 : p.kv_heads);
    view[i].ring = p.ring, view[i].type = p.type;
    scales[i].assign(static_cast<size_t>(slots * p.kv_heads), NAN);
    if (p.page_slots == 0) view[i].scales = scales[i].data();
    view[i].scale_head_stride = together;
    std::vector<float> row(static_cast<size_t>(p.kv_heads * p.dim));
    for (int64_t t = 0; t < total; ++t) {
      for (float& x : row) exact[i].push_back(double(x = random_float()));
      append_heads(row.data(), 1, p.kv_heads, p.dim, HeadTransform(), view[i], t, isa);
    }
  }
  for (int i = 0; i < 2 && !p.against_input; ++i) {
    double* value = exact[i].data();
    for (int64_t t = 0; t < total; ++t) {
      for (int head = 0; head < p.kv_heads; ++head) {
        const void* row = view[i].row(t, head);
        for (int d = 0; d < p.dim; ++d, ++value) {
          if (p.type == KvType::kF16) *value = double(half_to_float(static_cast<const uint16_t*>(row)[d]));
          if (p.type == KvType::kF32) *value = double(static_cast<const float*>(row)[d]);
          if (p.type == KvType::kI8) *value = double(*view[i].scale(t, head)) * static_cast<const int8_t*>(row)[d];
        }
      }
    }
  }
  const auto at = [&](int which, int64_t token, int head) {
    return exact[which].data() + (token * p.kv_heads + head) * p.dim;
  };
  std::vector<float> q(static_cast<size_t>(p.tokens * p.heads * p.dim)), out(q.size(), NAN);
  for (float& x : q) x = random_float();
  if (p.query_of_last_only) {
    random_state = 99;
    for (size_t i = q.size() - static_cast<size_t>(p.heads * p.dim); i < q.size(); ++i) q[i] = random_float();
  }

  AttentionCall call;
  call.shape = {p.heads, p.kv_heads, p.dim, p.scale, p.softcap};
  call.tokens = p.tokens, call.first_position = p.first, call.window = p.window;
  call.block_end = p.block_end.empty() ? nullptr : p.block_end.data();
  call.q = q.data(), call.k = view[0], call.v = view[1], call.out = out.data();
  const auto plan = plan_attention(call, isa);
  if (!plan.ok()) return -1.0;
  if (bfloat) *bfloat = plan.value().bfloat;
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
        const double* k = at(0, key, kv);
        for (int d = 0; d < p.dim; ++d) score += double(q[row + static_cast<size_t>(d)]) * k[d];
        score *= double(p.scale);
        if (p.softcap > 0.0f) score = double(p.softcap) * std::tanh(score / double(p.softcap));
        weight.push_back(score);
        peak = std::max(peak, score);
      }
      for (double& w : weight) sum += w = std::exp(w - peak);
      std::vector<double> wanted(static_cast<size_t>(p.dim), 0.0);
      for (int64_t key = from; key <= to; ++key) {
        const double share = weight[static_cast<size_t>(key - from)] / sum;
        const double* v = at(1, key, kv);
        for (int d = 0; d < p.dim; ++d) wanted[static_cast<size_t>(d)] += share * v[d];
      }
      for (int d = 0; d < p.dim; ++d) {
        const double want = wanted[static_cast<size_t>(d)];
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
    bool bfloat = false;
    const double error = error_of(p, isa, nullptr, &bfloat);
    if (!(error >= 0.0 && error < (bfloat ? 1e-2 : 5e-6))) {
      check::fail(__FILE__, __LINE__, std::string(isa_name(isa)) + ": relative error " + std::to_string(error));
    }
  }
}

}  // namespace

TEST(decode_and_verify) {
  for (KvType type : {KvType::kF32, KvType::kF16, KvType::kI8}) {
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
  for (KvType type : {KvType::kF32, KvType::kF16, KvType::kI8}) {
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
  for (KvType type : {KvType::kF32, KvType::kF16, KvType::kI8}) {
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

TEST(pages) {
  for (KvType type : {KvType::kF32, KvType::kF16, KvType::kI8}) {
    for (int64_t page_slots : {12, 64, 192}) {
      for (int tokens : {1, 3, 70}) {
        Problem p;
        p.type = type, p.page_slots = page_slots, p.head_major = true, p.tokens = tokens, p.first = 500;
        check_everywhere(p);
        p.window = 100;
        check_everywhere(p);
        p.ring = 200;  // ends within a page
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
  for (KvType type : {KvType::kF16, KvType::kI8}) {
    p.scale = 0.25f, p.softcap = 5.0f, p.type = type;
    check_everywhere(p);
  }
}

TEST(threads_do_not_change_a_bit) {
  for (KvType type : {KvType::kF32, KvType::kF16, KvType::kI8}) {
    for (Isa isa : available_isas()) {
      for (int tokens : {1, 4, 100}) {
        Problem p;
        p.tokens = tokens, p.first = 700, p.kv_heads = 1, p.heads = 16, p.dim = 32, p.type = type;
        std::vector<float> one, three;
        error_of(p, isa, &one);
        p.threads = 3;
        CHECK(error_of(p, isa, &three) < 1e-2);
        CHECK(one == three);
      }
    }
  }
}

// A token's result must not depend on how many are verified with it: only the order of float additions may.
TEST(verifying_computes_what_decoding_does) {
  for (KvType type : {KvType::kF32, KvType::kF16, KvType::kI8}) {
    for (Isa isa : available_isas()) {
      for (int heads : {2, 4, 8, 16}) {
        Problem p;
        p.kv_heads = 1, p.heads = heads, p.dim = 64, p.type = type;
        std::vector<float> one, many;
        const auto last_of = [&](int tokens, std::vector<float>* result) {
          p.tokens = tokens, p.first = 700 - tokens;
          error_of(p, isa, result);
          result->erase(result->begin(), result->end() - heads * p.dim);
        };
        p.query_of_last_only = true;
        last_of(1, &one);
        last_of(8, &many);
        double worst = 0.0, largest = 0.0;
        for (size_t i = 0; i < one.size(); ++i) {
          worst = std::max(worst, std::fabs(double(one[i]) - double(many[i])));
          largest = std::max(largest, std::fabs(double(one[i])));
        }
        if (!(worst < 2e-6 * largest)) {
          check::fail(__FILE__, __LINE__,
                      std::string(isa_name(isa)) + ", " + std::to_string(heads) + " heads, type " +
                          std::to_string(static_cast<int>(type)) + ": " + std::to_string(worst / largest));
        }
      }
    }
  }
}

TEST(int8_stays_close_to_float) {
  for (Isa isa : available_isas()) {
    for (int dim : {64, 256, 512}) {
      for (int tokens : {1, 20}) {
        Problem p;
        p.tokens = tokens, p.first = 200, p.dim = dim, p.type = KvType::kI8, p.against_input = true;
        p.scale = 1.0f / std::sqrt(static_cast<float>(dim));
        const double error = error_of(p, isa);
        CHECK(error < 2e-2);
        p.type = KvType::kF16;
        CHECK(error_of(p, isa) < error);
      }
    }
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
  AttentionCall call;
  call.shape = {1, 1, 16, 1.0f, 0.0f}, call.tokens = 1, call.k.type = call.v.type = KvType::kI8;
  CHECK(!plan_attention(call, isa).ok());  // no scales
  char* const page = nullptr;
  call.k.pages = call.v.pages = &page;
  CHECK(!plan_attention(call, isa).ok());  // pages of no slots
}
