// Sampler: filters against a plain sort, draws against the exact distribution, penalties, logprobs, bad input.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "check.h"
#include "decode/sampler.h"

using tandem::Code;
using tandem::Sampler;
using tandem::SamplingParams;

namespace {

std::vector<float> random_logits(size_t n, uint32_t seed, float spread = 6.0f) {
  std::vector<float> out(n);
  uint32_t state = seed * 747796405u + 1u;
  for (float& x : out) {
    float sum = 0.0f;  // twelve uniforms: close to normal
    for (int i = 0; i < 12; ++i) {
      state = state * 1664525u + 1013904223u;
      sum += static_cast<float>(state >> 8) / 16777216.0f;
    }
    x = (sum - 6.0f) * spread;
  }
  return out;
}

// The definition, by full sort and in double precision.
std::vector<double> expected(const std::vector<float>& logits, const SamplingParams& p) {
  const size_t n = logits.size();
  std::vector<int32_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  std::erase_if(order, [&](int32_t id) {
    return std::find(p.suppress_ids.begin(), p.suppress_ids.end(), id) != p.suppress_ids.end();
  });
  if (p.top_k > 0 && static_cast<size_t>(p.top_k) < order.size()) order.resize(static_cast<size_t>(p.top_k));
  std::vector<double> weight;
  for (int32_t id : order)
    weight.push_back(std::exp((double(logits[id]) - double(logits[order[0]])) / double(p.temperature)));
  const double total = std::accumulate(weight.begin(), weight.end(), 0.0);
  double sum = 0.0;
  size_t keep = 0;
  while (keep < order.size() && (keep == 0 || sum < double(p.top_p) * total)) sum += weight[keep++];
  while (keep > 1 && weight[keep - 1] < double(p.min_p)) sum -= weight[--keep];
  std::vector<double> out(n, 0.0);
  for (size_t i = 0; i < keep; ++i) out[static_cast<size_t>(order[i])] = weight[i] / sum;
  return out;
}

std::vector<float> distribution(Sampler& sampler, const std::vector<float>& logits) {
  std::vector<float> out(logits.size());
  CHECK(sampler.distribution(logits, out).ok());
  return out;
}

int32_t draw(Sampler& sampler, const std::vector<float>& logits) {
  const auto choice = sampler.sample(logits);
  CHECK(choice.ok());
  return choice.ok() ? choice.value().id : -1;
}

}  // namespace

TEST(distribution_matches_the_definition) {
  const std::vector<float> logits = random_logits(5003, 1, 3.0f);
  for (int top_k : {0, 1, 2, 40, 64, 4000, 9000}) {
    for (float top_p : {1.0f, 0.95f, 0.3f, 1e-6f}) {
      for (float min_p : {0.0f, 0.02f, 1.0f}) {
        for (float temperature : {0.2f, 1.0f, 3.0f}) {
          SamplingParams p;
          p.top_k = top_k, p.top_p = top_p, p.min_p = min_p, p.temperature = temperature;
          p.suppress_ids = {17, 4999, 17, 0};
          Sampler sampler(p, 5003);
          const std::vector<float> got = distribution(sampler, logits);
          const std::vector<double> want = expected(logits, p);
          double worst = 0.0;
          for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::fabs(double(got[i]) - want[i]));
          CHECK(worst < 2e-5);
          CHECK(got[17] == 0.0f && got[0] == 0.0f);
        }
      }
    }
  }
}

TEST(draws_follow_the_distribution) {
  const std::vector<float> logits = random_logits(300, 2, 1.0f);
  for (int variant = 0; variant < 4; ++variant) {
    SamplingParams p;
    p.temperature = 0.9f;
    p.seed = 1234;
    if (variant == 1) p.top_k = 20;
    if (variant == 2) p.top_p = 0.8f;
    if (variant == 3) p.min_p = 0.1f;
    Sampler sampler(p, 300);
    const std::vector<float> probability = distribution(sampler, logits);
    const int draws = 60000;
    std::vector<int> count(300, 0);
    for (int i = 0; i < draws; ++i) ++count[static_cast<size_t>(draw(sampler, logits))];
    double chi = 0.0, rest_expected = 0.0, rest_seen = 0.0;
    int cells = 0;
    for (size_t i = 0; i < 300; ++i) {
      const double mean = double(probability[i]) * draws;
      if (probability[i] == 0.0f) CHECK_EQ(count[i], 0);
      if (mean < 10.0) {
        rest_expected += mean, rest_seen += count[i];
      } else {
        chi += (count[i] - mean) * (count[i] - mean) / mean, ++cells;
      }
    }
    if (rest_expected > 5.0) chi += (rest_seen - rest_expected) * (rest_seen - rest_expected) / rest_expected, ++cells;
    const double freedom = cells - 1;
    CHECK(cells > 10);
    CHECK(std::fabs(chi - freedom) < 4.0 * std::sqrt(2.0 * freedom));  // 4 sigma on either side; the seed is fixed
  }
}

TEST(seed_decides_everything) {
  const std::vector<float> logits = random_logits(1000, 3, 1.0f);
  SamplingParams p;
  p.temperature = 1.0f;
  p.seed = 7;
  Sampler a(p, 1000), b(p, 1000);
  p.seed = 8;
  Sampler c(p, 1000);
  int equal = 0;
  for (int i = 0; i < 200; ++i) {
    const int32_t id = draw(a, logits);
    CHECK_EQ(id, draw(b, logits));
    equal += id == draw(c, logits);
  }
  CHECK(equal < 50);
}

TEST(greedy_takes_the_first_best_allowed) {
  std::vector<float> logits = random_logits(262144, 4);
  logits[70000] = logits[200000] = 99.0f;
  logits[262143] = 100.0f;
  SamplingParams p;
  Sampler plain(p, 262144);
  CHECK_EQ(draw(plain, logits), 262143);
  p.suppress_ids = {262143};
  Sampler one(p, 262144);
  CHECK_EQ(draw(one, logits), 70000);
  p.suppress_ids = {262143, 70000};
  Sampler two(p, 262144);
  CHECK_EQ(draw(two, logits), 200000);
  CHECK(distribution(two, logits)[200000] == 1.0f);
}

TEST(large_vocabulary_top_k_and_top_p) {
  const std::vector<float> logits = random_logits(262144, 5, 4.0f);
  SamplingParams p;
  p.temperature = 1.0f, p.top_k = 64, p.top_p = 0.95f;
  p.suppress_ids = {258882, 258883};
  Sampler sampler(p, 262144);
  const std::vector<float> got = distribution(sampler, logits);
  const std::vector<double> want = expected(logits, p);
  double worst = 0.0;
  for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::fabs(double(got[i]) - want[i]));
  CHECK(worst < 1e-6);
}

TEST(logprob_is_of_the_models_own_logits) {
  std::vector<float> logits = random_logits(1000, 6, 2.0f);
  logits[5] = 40.0f;  // suppressed, so it must not count
  SamplingParams p;
  p.temperature = 2.0f, p.top_k = 5, p.repetition_penalty = 1.5f, p.logprobs = true;
  p.suppress_ids = {5};
  Sampler sampler(p, 1000);
  sampler.accept(9);
  double sum = 0.0;
  for (size_t i = 0; i < 1000; ++i) sum += i == 5 ? 0.0 : std::exp(double(logits[i]));
  const auto choice = sampler.sample(logits);
  CHECK(choice.ok());
  const double want = double(logits[static_cast<size_t>(choice.value().id)]) - std::log(sum);
  CHECK(std::fabs(double(choice.value().logprob) - want) < 1e-5);
  p.logprobs = false;
  Sampler without(p, 1000);
  CHECK(std::isnan(without.sample(logits).value().logprob));
}

TEST(penalties) {
  std::vector<float> logits(64, -1.0f);
  logits[1] = 10.0f, logits[2] = 9.0f, logits[3] = 8.0f;
  SamplingParams p;
  p.repetition_penalty = 1.2f;
  Sampler repetition(p, 64);
  const std::vector<int32_t> prompt = {1};
  repetition.accept_prompt(prompt);
  CHECK_EQ(draw(repetition, logits), 2);  // 10 / 1.2 < 9
  repetition.accept(2);
  CHECK_EQ(draw(repetition, logits), 1);  // 8.33 against 7.5 and 8
  for (float& x : logits) x -= 21.0f;     // negative scores are multiplied: -13.2 and -14.4 against -13
  CHECK_EQ(draw(repetition, logits), 3);
  for (float& x : logits) x += 21.0f;

  p = SamplingParams();
  p.presence_penalty = 1.5f;
  Sampler presence(p, 64);
  presence.accept_prompt(prompt);
  CHECK_EQ(draw(presence, logits), 1);  // the prompt does not count
  presence.accept(1), presence.accept(1);
  CHECK_EQ(draw(presence, logits), 2);
  presence.accept(2);
  CHECK_EQ(draw(presence, logits), 1);  // 8.5 against 7.5 and 8

  p = SamplingParams();
  p.frequency_penalty = 0.6f;
  Sampler frequency(p, 64);
  frequency.accept(1);
  CHECK_EQ(draw(frequency, logits), 1);
  frequency.accept(1);
  CHECK_EQ(draw(frequency, logits), 2);
  frequency.accept(-5), frequency.accept(1 << 30);  // out of range: ignored
  CHECK_EQ(draw(frequency, logits), 2);
}

TEST(bad_logits_are_an_error) {
  for (float temperature : {0.0f, 1.0f}) {
    for (size_t where : {size_t{0}, size_t{130}, size_t{256}}) {
      std::vector<float> logits(257, 1.0f);
      SamplingParams p;
      p.temperature = temperature;
      Sampler sampler(p, 257);
      logits[where] = std::numeric_limits<float>::quiet_NaN();
      CHECK(sampler.sample(logits).status().code() == Code::kBackend);
      logits[where] = std::numeric_limits<float>::infinity();
      CHECK(sampler.sample(logits).status().code() == Code::kBackend);
      logits[where] = -std::numeric_limits<float>::infinity();  // a mask
      CHECK(sampler.sample(logits).ok());
      CHECK(distribution(sampler, logits)[where] == 0.0f);
      logits.pop_back();
      CHECK(sampler.sample(logits).status().code() == Code::kInvalidRequest);
    }
  }
}

TEST(all_suppressed_is_an_error) {
  SamplingParams p;
  for (int32_t i = 0; i < 10; ++i) p.suppress_ids.push_back(i);
  for (float temperature : {0.0f, 1.0f}) {
    p.temperature = temperature;
    Sampler sampler(p, 10);
    CHECK(sampler.sample(std::vector<float>(10, 0.5f)).status().code() == Code::kInvalidRequest);
  }
}

TEST(extreme_temperatures) {
  std::vector<float> logits = random_logits(2000, 8, 10.0f);
  logits[77] = 500.0f;
  SamplingParams p;
  p.temperature = 1.1e-5f;
  Sampler cold(p, 2000);
  CHECK_EQ(draw(cold, logits), 77);
  p.temperature = 1e30f;
  Sampler hot(p, 2000);
  CHECK(std::fabs(distribution(hot, logits)[3] - 1.0f / 2000.0f) < 1e-7f);
}

TEST(validate_names_the_field) {
  const auto rejected = [](auto change, const char* field) {
    SamplingParams p;
    change(p);
    const tandem::Status status = validate(p, 100);
    CHECK(status.code() == Code::kInvalidRequest);
    CHECK(status.message().find(field) != std::string::npos);
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(validate(SamplingParams(), 100).ok());
  rejected([](SamplingParams& p) { p.temperature = -1.0f; }, "temperature");
  rejected([&](SamplingParams& p) { p.temperature = nan; }, "temperature");
  rejected([](SamplingParams& p) { p.top_k = -1; }, "top_k");
  rejected([](SamplingParams& p) { p.top_p = 0.0f; }, "top_p");
  rejected([&](SamplingParams& p) { p.top_p = nan; }, "top_p");
  rejected([](SamplingParams& p) { p.min_p = 1.5f; }, "min_p");
  rejected([](SamplingParams& p) { p.repetition_penalty = 0.0f; }, "repetition_penalty");
  rejected([&](SamplingParams& p) { p.presence_penalty = nan; }, "presence_penalty");
  rejected([&](SamplingParams& p) { p.frequency_penalty = nan; }, "frequency_penalty");
  rejected([](SamplingParams& p) { p.max_tokens = 0; }, "max_tokens");
  rejected([](SamplingParams& p) { p.stop_strings = {"x", ""}; }, "stop_strings");
  rejected([](SamplingParams& p) { p.stop_ids = {100}; }, "stop_ids");
  rejected([](SamplingParams& p) { p.suppress_ids = {-1}; }, "suppress_ids");
}
