// verify: a sound bundle has no problems, any damaged byte is found, and unsound models are named.
#include <random>
#include <string>
#include <vector>

#include "bundle/tflite_check.h"
#include "bundle/verify.h"
#include "bundle_fixture.h"
#include "check.h"

namespace {

using fixture::contains;
using fixture::TinyModel;

std::vector<std::string> problems_of(const std::string& bytes) {
  const fixture::TempFile file(bytes);
  const auto bundle = tandem::Bundle::open(file.path());
  if (!bundle.ok()) return {"open: " + bundle.status().message()};
  const auto problems = tandem::verify(bundle.value());
  if (!problems.ok()) return {"verify: " + problems.status().message()};
  return problems.value();
}

std::string fault_of(const TinyModel& model) { return tandem::check_tflite(fixture::bytes_of(model.write())); }

}  // namespace

TEST(a_sound_bundle_has_no_problems) {
  const auto problems = problems_of(fixture::build().bytes);
  for (const std::string& problem : problems) check::fail(__FILE__, __LINE__, problem);
}

TEST(every_damaged_byte_is_found) {
  const fixture::Built built = fixture::build();
  for (unsigned seed = 0; seed < 200; ++seed) {
    std::mt19937_64 random(seed);
    std::string damaged = built.bytes;
    const uint64_t at = 16384 + random() % (built.sections.back().begin - 16384);
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << random() % 8));
    const auto problems = problems_of(damaged);
    if (problems.empty()) check::fail(__FILE__, __LINE__, "byte " + std::to_string(at) + " is not covered");
  }
  std::string damaged = built.bytes;
  damaged[built.sections[2].begin + 100] ^= 1;
  damaged[built.sections[3].begin] ^= 1;
  auto problems = problems_of(damaged);
  CHECK_EQ(problems.size(), 2u);
  CHECK(contains(problems[0], "section 'tf_lite_prefill_decode' is damaged: its sha256 is"));
  CHECK(contains(problems[1], "section 'tandem_tokenizer' is damaged"));
  damaged = built.bytes;
  damaged[built.sections[0].end] = 1;
  problems = problems_of(damaged);
  CHECK_EQ(problems.size(), 1u);
  CHECK(contains(problems[0], "the padding behind section 'llm_metadata' is not zero"));
}

TEST(nested_sections_are_checked_too) {
  fixture::Recipe recipe;
  recipe.parts = fixture::parts_with_embedder();
  const fixture::Built built = fixture::build(recipe);
  for (const std::string& problem : problems_of(built.bytes)) check::fail(__FILE__, __LINE__, problem);
  std::string damaged = built.bytes;
  damaged[built.sections[3].end - 1] ^= 1;  // of both
  auto problems = problems_of(damaged);
  CHECK_EQ(problems.size(), 2u);
  CHECK(contains(problems[0], "section 'tf_lite_prefill_decode' is damaged"));
  CHECK(contains(problems[1], "section 'tf_lite_embedder' is damaged"));
  damaged = built.bytes;
  damaged[built.sections[2].end] = 1;
  problems = problems_of(damaged);
  CHECK_EQ(problems.size(), 1u);
  CHECK(contains(problems[0], "the padding behind section 'tf_lite_prefill_decode' is not zero"));

  recipe.edit_layout = [](auto& all) { all[3].end -= 1; };  // the table's last byte is missing
  recipe.edit_manifest = [](std::string& json) {
    const std::string guest = TinyModel().write();
    const std::string cut = guest.substr(0, guest.size() - 1);
    json = fixture::replaced(json,
                             "\"bytes\":" + std::to_string(guest.size()) + ",\"sha256\":\"" + fixture::hex_hash(guest),
                             "\"bytes\":" + std::to_string(cut.size()) + ",\"sha256\":\"" + fixture::hex_hash(cut));
  };
  problems = problems_of(fixture::build(recipe).bytes);
  CHECK_EQ(problems.size(), 1u);
  CHECK(contains(problems[0], "section 'tf_lite_embedder' is not a sound model: buffer 1 lies outside the section"));

  uint64_t last = 0;
  const fixture::TempFile file(built.bytes);
  const auto bundle = tandem::Bundle::open(file.path());
  CHECK(bundle.ok());
  const auto all = tandem::verify(bundle.value(), [&](uint64_t done, uint64_t) {
    CHECK(done >= last);
    last = done;
    return true;
  });
  CHECK(all.ok());
  CHECK_EQ(last, built.bytes.size());
}

TEST(changes_after_opening_are_found) {
  const fixture::Built built = fixture::build();
  const fixture::TempFile file(built.bytes);
  const auto bundle = tandem::Bundle::open(file.path());
  CHECK(bundle.ok());
  std::string changed = built.bytes;
  changed[100] ^= 1;
  changed[built.sections.back().end - 1] ^= 1;
  file.write(changed);
  const auto problems = tandem::verify(bundle.value());
  CHECK(problems.ok() && problems.value().size() == 2);
  file.write(changed.substr(0, 30000));
  const auto shrunk = tandem::verify(bundle.value());
  CHECK(!shrunk.ok() && shrunk.status().code() == tandem::Code::kIo);
}

TEST(progress_and_cancelling) {
  const fixture::Built built = fixture::build();
  const fixture::TempFile file(built.bytes);
  const auto bundle = tandem::Bundle::open(file.path());
  CHECK(bundle.ok());
  uint64_t last = 0;
  const auto all = tandem::verify(bundle.value(), [&](uint64_t done, uint64_t total) {
    CHECK(done > last && done <= total);
    CHECK_EQ(total, built.bytes.size());
    last = done;
    return true;
  });
  CHECK(all.ok());
  CHECK_EQ(last, built.bytes.size());
  const auto cancelled = tandem::verify(bundle.value(), [](uint64_t done, uint64_t) { return done < 40000; });
  CHECK(cancelled.status().code() == tandem::Code::kCancelled);
}

TEST(unsound_models) {
  CHECK_EQ(fault_of({}), "");
  CHECK(contains(tandem::check_tflite({}), "not a TFLite model"));
  CHECK(contains(tandem::check_tflite(fixture::bytes_of("12345678")), "not a TFLite model"));
  const auto fault = [](auto edit) {
    TinyModel model;
    edit(model);
    return fault_of(model);
  };
  CHECK(contains(fault([](TinyModel& m) { m.version = 2; }), "schema version"));
  CHECK(contains(fault([](TinyModel& m) { m.weight_buffer = 2; }), "a tensor's buffer does not exist"));
  CHECK(contains(fault([](TinyModel& m) { m.op_input = 3; }), "tensor index 3 does not exist"));
  CHECK(contains(fault([](TinyModel& m) { m.op_input = -2; }), "tensor index -2 does not exist"));
  CHECK(contains(fault([](TinyModel& m) { m.opcode = 1; }), "opcode index"));
  CHECK(contains(fault([](TinyModel& m) { m.signature_graph = 1; }), "subgraph does not exist"));
  CHECK(contains(fault([](TinyModel& m) { m.signature_tensor = 3; }), "signature's tensor does not exist"));
  CHECK(contains(fault([](TinyModel& m) { m.type = 99; }), "unknown type"));
  CHECK(contains(fault([](TinyModel& m) { m.rows = -1; }), "negative dimension"));
  CHECK(contains(fault([](TinyModel& m) { m.rows = 5; }), "a constant needs more bytes"));
  CHECK(contains(fault([](TinyModel& m) { m.rows = 1 << 30; }), "larger than the section"));
  CHECK_EQ(fault([](TinyModel& m) { m.type = 17, m.rows = 8; }), "");  // int4: two values per byte
  CHECK(contains(fault([](TinyModel& m) { m.weight_offset = 4097; }), "buffer 1 lies outside the section"));
  CHECK(contains(fault([](TinyModel& m) { m.weight_bytes = ~uint64_t{0}; }), "lies outside the section"));

  fixture::Recipe recipe;  // a bundle whose checksums are right and whose model is not
  TinyModel model;
  model.weight_offset = 1 << 20;
  recipe.parts[2].bytes = model.write();
  const auto problems = problems_of(fixture::build(recipe).bytes);
  CHECK_EQ(problems.size(), 1u);
  CHECK(contains(problems[0], "section 'tf_lite_prefill_decode' is not a sound model"));
}

TEST(mutated_models_stay_inside) {
  const std::string sound = TinyModel().write();
  for (unsigned seed = 0; seed < 20000; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<char> copy(sound.begin(), sound.begin() + 1200);  // exact heap memory: a sanitizer sees reads outside
    for (unsigned i = 0; i <= seed % 4; ++i) copy[8 + random() % 1000] = static_cast<char>(random());
    tandem::check_tflite(std::as_bytes(std::span(copy)));
  }
}
