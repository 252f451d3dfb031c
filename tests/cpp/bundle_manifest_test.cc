// The manifest as typed data: every field arrives, and values out of range are refused with the field's name.
#include <random>
#include <string>

#include "bundle/manifest.h"
#include "bundle_fixture.h"
#include "check.h"

namespace {

std::string sound() { return fixture::usual_manifest(fixture::usual_parts(), std::string(64, 'a')); }

std::string error_of(const std::string& json) {
  const auto manifest = tandem::parse_manifest(json);
  return manifest.ok() ? "" : manifest.status().message();
}

// The same with a drafter of the model's own shape.
std::string with_drafter() {
  const std::string json = sound();
  const size_t begin = json.find("\"model\":"), end = json.find(",\"prefill_sizes\"");
  return fixture::replaced(json, "\"family\":\"gemma3_text\",\"format\"",
                           "\"drafter\":{\"backbone_size\":64," + json.substr(begin, end - begin) +
                               ",\"quantization\":\"int4-channel\",\"reads\":[0,1],\"target\":\"" +
                               std::string(64, 'f') + "\"},\"family\":\"gemma3_text\",\"format\"");
}

}  // namespace

TEST(a_drafter_is_tied_to_its_model) {
  CHECK(!tandem::parse_manifest(sound()).value().drafter);
  const auto parsed = tandem::parse_manifest(with_drafter());
  if (!parsed.ok()) return check::fail(__FILE__, __LINE__, parsed.status().message());
  const tandem::DrafterSpec& drafter = *parsed.value().drafter;
  CHECK_EQ(drafter.backbone_size, 64);
  CHECK_EQ(drafter.target, parsed.value().source.fingerprint);
  CHECK_EQ(drafter.quantization, "int4-channel");
  CHECK(drafter.reads == (std::vector<int>{0, 1}));
  CHECK_EQ(drafter.model.layers.size(), 2u);

  const auto fault = [](std::string_view from, std::string_view to) {
    const std::string json = with_drafter(), changed = fixture::replaced(json, from, to);
    CHECK(json != changed);
    return error_of(changed);
  };
  const auto names = [](const std::string& message, const char* field) {
    return fixture::contains(message, std::string("manifest.drafter") + field);
  };
  const std::string wanted = "\"target\":\"" + std::string(64, 'f');
  CHECK(fixture::contains(fault(wanted, "\"target\":\"" + std::string(64, 'e')), "made for another model"));
  CHECK(names(fault(wanted, "\"target\":\"" + std::string(64, 'F')), ".target"));
  CHECK(names(fault("\"backbone_size\":64", "\"backbone_size\":65"), ".backbone_size"));
  CHECK(names(fault("\"vocab_size\":256", "\"vocab_size\":512"), ".model.vocab_size"));
  CHECK(names(fault("\"reads\":[0,1]", "\"reads\":[0]"), ".reads"));
  CHECK(names(fault("\"reads\":[0,1]", "\"reads\":[0,2]"), ".reads"));
  CHECK(names(fault("\"reads\":[0,1]", "\"reads\":[1,0]"), ".reads"));  // another shape of keys and values
  CHECK(names(fault("\"window\":8", "\"window\":9"), ".reads"));        // the first is the drafter's
}

TEST(every_field_arrives) {
  const auto parsed = tandem::parse_manifest(sound());
  if (!parsed.ok()) return check::fail(__FILE__, __LINE__, parsed.status().message());
  const tandem::Manifest& manifest = parsed.value();
  CHECK_EQ(manifest.format, 1);
  CHECK_EQ(manifest.generator, "tandem 0.1.0");
  CHECK_EQ(manifest.family, "gemma3_text");
  CHECK_EQ(manifest.quantization, "int8");
  CHECK_EQ(manifest.source.fingerprint, std::string(64, 'f'));
  CHECK_EQ(manifest.source.dtype, "bfloat16");
  CHECK_EQ(manifest.header_sha256, std::string(64, 'a'));
  CHECK_EQ(manifest.context, 64);
  CHECK(manifest.prefill_sizes == (std::vector<int>{8, 32}));
  CHECK_EQ(manifest.tokens.bos, 2);
  CHECK(manifest.tokens.eos == (std::vector<int>{1, 106}));
  CHECK_EQ(manifest.tokens.pad, 0);
  CHECK(manifest.tokens.suppress == (std::vector<int>{3}));
  CHECK_EQ(*manifest.sampler.temperature, 1.0);
  CHECK_EQ(*manifest.sampler.top_k, 64);
  CHECK_EQ(*manifest.sampler.top_p, 0.95);
  CHECK(!manifest.sampler.min_p);
  CHECK_EQ(*manifest.chat_template, "{{ messages }}");
  CHECK(manifest.add_bos);
  CHECK_EQ(manifest.sections.size(), 4u);
  CHECK_EQ(manifest.sections.at("hf_tokenizer").bytes, 20000u);
  CHECK_EQ(manifest.sections.at("hf_tokenizer").sha256, fixture::hex_hash(std::string(20000, 'z')));

  const tandem::ModelSpec& model = manifest.model;
  CHECK_EQ(model.vocab_size, 256);
  CHECK_EQ(model.hidden_size, 64);
  CHECK_EQ(model.intermediate_size, 128);
  CHECK_EQ(model.num_heads, 4);
  CHECK_EQ(model.layers.size(), 2u);
  CHECK_EQ(model.layers[1].head_dim, 32);
  CHECK_EQ(model.layers[1].kv_heads, 1);
  CHECK_EQ(model.layers[0].window, 8);
  CHECK_EQ(model.layers[1].rope.theta, 1e6);
  CHECK_EQ(model.layers[1].rope.factor, 8.0);
  CHECK_EQ(model.layers[1].rope.rotated, 4);
  CHECK(!model.layers[0].k_eq_v && model.layers[1].k_eq_v);
  CHECK_EQ(model.rms_norm_eps, 1e-6);
  CHECK_EQ(model.norm_offset, 1.0);
  CHECK_EQ(model.attention_scale, 0.0625);
  CHECK(!model.v_norm && !model.layer_scalar && !model.final_softcap);
  CHECK_EQ(model.embed_scale, 16.0);
  CHECK_EQ(model.max_context, 512);
  CHECK_EQ(model.bos_id, 2);
  CHECK(model.eos_ids == (std::vector<int>{1, 106}));
  CHECK(model.suppress_ids.empty());
  CHECK_EQ(model.media.at("image_token_id"), 200);
}

TEST(optional_and_unknown_fields) {
  CHECK_EQ(error_of(fixture::replaced(sound(), "\"{{ messages }}\"", "null")), "");
  CHECK_EQ(error_of(fixture::replaced(sound(), "\"final_softcap\":null", "\"final_softcap\":30.0")), "");
  CHECK_EQ(error_of(fixture::replaced(sound(), "{\"add_bos\"", "{\"a_new_field\":[1],\"add_bos\"")), "");
  CHECK_EQ(error_of(fixture::replaced(sound(), "\"top_k\":64", "\"top_k\":64.0")), "");
}

TEST(values_out_of_range) {
  struct Edit {
    const char *from, *to, *message;
  };
  const Edit edits[] = {
      {"\"format\":1", "\"format\":\"1\"", "manifest.format: expected an integer, found string"},
      {"\"add_bos\":true,", "", "manifest.add_bos: is missing"},
      {"\"add_bos\":true", "\"add_bos\":1", "manifest.add_bos: expected a boolean, found integer"},
      {"\"context\":64", "\"context\":0", "manifest.context: 0 is outside 1 to"},
      {"\"context\":64", "\"context\":64.0", "manifest.context: expected an integer"},
      {"\"context\":64", "\"context\":16", "manifest.prefill_sizes: 32 is outside 1 to 16"},
      {"[32,8]", "[]", "manifest.prefill_sizes: must have 1 to"},
      {"[32,8]", "[8,8]", "manifest.prefill_sizes: has the same size twice"},
      {"\"prefill_sizes\":[32,8]", "\"prefill_sizes\":8", "manifest.prefill_sizes: expected an array, found integer"},
      {"\"vocab_size\":256", "\"vocab_size\":0", "manifest.model.vocab_size: 0 is outside"},
      {"\"vocab_size\":256", "\"vocab_size\":100", "manifest.model.eos_ids: 106 is outside 0 to 99"},
      {"\"vocab_size\":256", "\"vocab_size\":4194305", "manifest.model.vocab_size"},
      {"\"bos\":2", "\"bos\":256", "manifest.tokens.bos: 256 is outside 0 to 255"},
      {"\"bos\":2", "\"bos\":-1", "manifest.tokens.bos"},
      {"\"suppress\":[3]", "\"suppress\":[3,9999]", "manifest.tokens.suppress: 9999"},
      {"\"image_token_id\":200", "\"image_token_id\":256", "manifest.model.media.image_token_id: 256"},
      {"\"num_heads\":4", "\"num_heads\":3", "manifest.model.layers[0].kv_heads: 2 does not divide num_heads 3"},
      {"\"kv_heads\":1", "\"kv_heads\":0", "manifest.model.layers[1].kv_heads: 0 is outside"},
      {"\"head_dim\":16", "\"head_dim\":15", "manifest.model.layers[0].head_dim: must be even"},
      {"\"window\":8", "\"window\":-1", "manifest.model.layers[0].window"},
      {"\"rotated\":8", "\"rotated\":9", "manifest.model.layers[0].rope.rotated: 9 is outside 0 to 8"},
      {"\"theta\":10000.0", "\"theta\":0", "manifest.model.layers[0].rope.theta: must be above 0"},
      {"\"factor\":8.0", "\"factor\":-1", "manifest.model.layers[1].rope.factor"},
      {"\"factor\":8.0", "\"factor\":NaN", "JSON line 1, column"},
      {"\"rms_norm_eps\":1e-06", "\"rms_norm_eps\":0.0", "manifest.model.rms_norm_eps: must be above 0"},
      {"\"attention_scale\":0.0625", "\"attention_scale\":-0.5", "manifest.model.attention_scale"},
      {"\"final_softcap\":null", "\"final_softcap\":0", "manifest.model.final_softcap: must be above 0"},
      {"\"hidden_size\":64", "\"hidden_size\":9223372036854775807", "manifest.model.hidden_size"},
      {"\"max_context\":512", "\"max_context\":0", "manifest.model.max_context"},
      {"\"top_p\":0.95", "\"top_p\":1.5", "manifest.sampler.top_p: 1.5 is outside 0.0 to 1.0"},
      {"\"top_k\":64", "\"top_k\":0.5", "manifest.sampler.top_k: must be a whole number"},
      {"\"family\":\"gemma3_text\"", "\"family\":\"other\"", "manifest.family: differs from model.family"},
      {"\"generator\":\"tandem 0.1.0\"", "\"generator\":\"\"", "manifest.generator: must have 1 to 256 bytes"},
      {"\"bytes\":20000", "\"bytes\":-1", "manifest.sections.hf_tokenizer.bytes"},
      {"\"fingerprint\":\"ff", "\"fingerprint\":\"FF", "manifest.source.fingerprint: is not a sha256"},
      {"\"source\":{", "\"source\":[{", "JSON line 1"},
      {"\"tokens\":{", "\"tokens\":1,\"_\":{", "manifest.tokens: expected an object, found integer"},
  };
  for (const Edit& edit : edits) {
    const std::string json = fixture::replaced(sound(), edit.from, edit.to);
    if (json == sound()) check::fail(__FILE__, __LINE__, std::string("edit does not apply: ") + edit.from);
    const std::string message = error_of(json);
    if (!fixture::contains(message, edit.message)) {
      check::fail(__FILE__, __LINE__, std::string(edit.to) + " gave: " + message + ", expected: " + edit.message);
    }
  }
}

TEST(section_frame) {
  const std::string section = fixture::manifest_section("{}");
  const auto json = tandem::manifest_json(fixture::bytes_of(section));
  CHECK(json.ok() && json.value() == "{}");
  for (size_t length = 0; length < section.size(); ++length) {
    CHECK(!tandem::manifest_json(fixture::bytes_of(section.substr(0, length))).ok());
  }
  CHECK(!tandem::manifest_json(fixture::bytes_of(section + "x")).ok());
  for (size_t i = 0; i < section.size() * 8; ++i) {
    std::string flipped = section;
    flipped[i / 8] = static_cast<char>(flipped[i / 8] ^ (1 << i % 8));
    CHECK(!tandem::manifest_json(fixture::bytes_of(flipped)).ok());
  }
}

TEST(mutated_json_never_crashes) {
  const std::string json = sound();
  for (unsigned seed = 0; seed < 3000; ++seed) {
    std::mt19937 random(seed);
    std::string text = json;
    for (unsigned i = 0; i <= seed % 3; ++i) {
      const size_t at = random() % text.size();
      static constexpr std::string_view kBytes = "0123456789-.eE,:[]{}\"nulltruefalse";
      text[at] = kBytes[random() % kBytes.size()];
    }
    const auto parsed = tandem::parse_manifest(text);
    if (parsed.ok()) continue;
    CHECK(parsed.status().code() == tandem::Code::kBundle && !parsed.status().message().empty());
  }
}
