// Opening bundles: what a sound one gives, and the messages for files that are not ours, too new or laid out wrongly.
#include <string>

#include "bundle/reader.h"
#include "bundle_fixture.h"
#include "check.h"

namespace {

using fixture::contains;
using fixture::Recipe;
using fixture::TempFile;
using tandem::Bundle;

// The message of opening `bytes`; "" when that works. Checks that the error is one of the bundle and names the file.
std::string error_of(const std::string& bytes) {
  const TempFile file(bytes);
  const auto bundle = Bundle::open(file.path());
  if (bundle.ok()) return "";
  CHECK(bundle.status().code() == tandem::Code::kBundle);
  CHECK(contains(bundle.status().message(), file.path()));
  return bundle.status().message();
}
std::string error_of(const Recipe& recipe) { return error_of(fixture::build(recipe).bytes); }

#define CHECK_ERROR(input, part)                                                                       \
  do {                                                                                                 \
    const std::string message_ = error_of(input);                                                      \
    if (!contains(message_, part)) check::fail(__FILE__, __LINE__, "unexpected message: " + message_); \
  } while (false)

}  // namespace

TEST(opens_a_sound_bundle) {
  const fixture::Built built = fixture::build();
  const TempFile file(built.bytes);
  auto opened = Bundle::open(file.path());
  if (!opened.ok()) return check::fail(__FILE__, __LINE__, opened.status().message());
  const Bundle bundle = std::move(opened).value();
  CHECK_EQ(bundle.path(), file.path());
  CHECK_EQ(bundle.sections().size(), 5u);
  const char* const names[] = {"llm_metadata", "hf_tokenizer", "tf_lite_prefill_decode", "tandem_tokenizer",
                               "tandem_manifest"};
  for (size_t i = 0; i < 5; ++i) {
    const tandem::SectionInfo& section = bundle.sections()[i];
    CHECK_EQ(section.name, names[i]);
    CHECK(bundle.has(names[i]));
    CHECK_EQ(section.offset, built.sections[i].begin);
    CHECK_EQ(section.offset + section.bytes, built.sections[i].end);
    const auto bytes = bundle.section(names[i]);
    CHECK_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()),
             built.bytes.substr(section.offset, section.bytes));
  }
  CHECK_EQ(bundle.find("tf_lite_prefill_decode")->type, "tf_lite_model");
  CHECK_EQ(bundle.find("tf_lite_prefill_decode")->items[0].second, "TF_lite_prefill_decode");
  CHECK(!bundle.has("tf_lite_mtp_drafter"));
  CHECK(bundle.section("tf_lite_mtp_drafter").empty());
  CHECK_EQ(bundle.hash(), fixture::hex_hash(bundle.manifest_text()));
  CHECK(bundle.fd() >= 0);
}

TEST(padding_at_the_end_is_allowed) {
  std::string bytes = fixture::build().bytes;
  bytes.resize((bytes.size() + 16383) / 16384 * 16384, '\0');
  CHECK_EQ(error_of(bytes), "");
  CHECK_ERROR(bytes + '\0', "its sections end at");
}

TEST(files_that_are_no_bundles) {
  CHECK_ERROR(std::string(), "not a .litertlm bundle");
  CHECK_ERROR("LITERTL", "not a .litertlm bundle");
  CHECK_ERROR("GGUF" + std::string(100, '\0'), "GGUF file; make a bundle of it with `tandem convert`");
  CHECK_ERROR("PK\x03\x04" + std::string(20000, '\0'), "zip archive");
  CHECK_ERROR(std::string("version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer");
  CHECK_ERROR(std::string("LITERTLM"), "ends inside its header");
  const auto missing = Bundle::open("/nonexistent/x.litertlm");
  CHECK(missing.status().code() == tandem::Code::kBundle);
  CHECK(contains(missing.status().message(), "/nonexistent/x.litertlm"));
}

TEST(bundles_of_other_makers) {
  Recipe recipe;
  recipe.with_manifest = false;
  CHECK_ERROR(recipe, "not written by `tandem convert`");
  recipe.parts[2].model_type = "";  // the container's default name of a model
  CHECK_ERROR(recipe, "not written by `tandem convert`");
}

TEST(newer_versions) {
  Recipe recipe;
  recipe.major = 2;
  CHECK_ERROR(recipe, "newer than the version 1 that this release reads; update tandem-lm");
  Recipe format;
  format.edit_manifest = [](std::string& json) { json = fixture::replaced(json, "\"format\":1", "\"format\":2"); };
  CHECK_ERROR(format, "newer than the format 1");
  Recipe minor;  // a newer minor version is the same format
  minor.edit_header = [](std::string& block) { block[12] = 99; };
  CHECK_EQ(error_of(minor), "");
}

TEST(header_end_is_bounded) {
  for (const uint64_t end : {uint64_t{0}, uint64_t{32}, uint64_t{16385}, ~uint64_t{0}}) {
    Recipe recipe;
    recipe.edit_header = [end](std::string& block) { block.replace(24, 8, fixture::raw(end)); };
    CHECK_ERROR(recipe, "the header ends at byte");
  }
  Recipe inside;  // cuts the flatbuffer
  inside.edit_header = [](std::string& block) { block.replace(24, 8, fixture::raw(uint64_t{200})); };
  CHECK_ERROR(inside, "the header is malformed");
}

TEST(layout_faults) {
  const auto layout = [](std::function<void(std::vector<fixture::Placed>&)> edit) {
    Recipe recipe;
    recipe.edit_layout = std::move(edit);
    return recipe;
  };
  CHECK_ERROR(layout([](auto& all) { std::swap(all[0], all[1]); }), "section 'llm_metadata' begins at byte");
  CHECK_ERROR(layout([](auto& all) { all[1].begin += 8; }), "section 'hf_tokenizer' begins at byte");
  CHECK_ERROR(layout([](auto& all) { all[1].end += 16384; }), "begins at byte");  // overlaps the next
  CHECK_ERROR(layout([](auto& all) { all[0].begin = 0; }), "begins at byte 0");   // overlaps the header
  CHECK_ERROR(layout([](auto& all) { all[0].end = all[0].begin; }), "is empty");
  CHECK_ERROR(layout([](auto& all) { all[0].end = all[0].begin - 1; }), "ends before it begins");
  CHECK_ERROR(layout([](auto& all) { all[4].end += 1 << 20; }), "the file is truncated");
  CHECK_ERROR(layout([](auto& all) { all[4].end = ~uint64_t{0}; }), "the file is truncated");
  CHECK_ERROR(layout([](auto& all) { all[4].end -= 1; }), "manifest");
  // Inside the padding: the layout is sound, so only the manifest can tell.
  CHECK_ERROR(layout([](auto& all) { all[0].end += 1; }), "has 15 bytes, the manifest says 14");
}

TEST(an_embedder_may_lie_inside_the_model) {
  Recipe recipe;
  recipe.parts = fixture::parts_with_embedder();
  const fixture::Built built = fixture::build(recipe);
  const TempFile file(built.bytes);
  const auto bundle = Bundle::open(file.path());
  if (!bundle.ok()) return check::fail(__FILE__, __LINE__, bundle.status().message());
  const tandem::SectionInfo* host = bundle.value().find("tf_lite_prefill_decode");
  const tandem::SectionInfo* guest = bundle.value().find("tf_lite_embedder");
  CHECK(!host->nested && guest->nested);
  CHECK_EQ(guest->offset, host->offset + 16384);
  const auto bytes = bundle.value().section("tf_lite_embedder");
  CHECK_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), recipe.parts[3].bytes);

  const auto broken = [&](auto edit) {
    Recipe other;
    other.parts = fixture::parts_with_embedder();
    edit(other);
    return error_of(other);
  };
  const auto layout = [&](std::function<void(std::vector<fixture::Placed>&)> edit) {
    return broken([&](Recipe& other) { other.edit_layout = std::move(edit); });
  };
  const std::string misplaced = "section 'tf_lite_embedder' begins at byte";
  CHECK(contains(layout([](auto& all) { all[3].begin = all[2].begin; }), misplaced));
  CHECK(contains(layout([](auto& all) { all[3].begin += 64, all[3].end += 64; }), misplaced));
  CHECK(contains(layout([](auto& all) { all[3].end = all[2].end + 1; }), misplaced));
  CHECK(contains(layout([](auto& all) { all[3].end = ~uint64_t{0}; }), misplaced));
  CHECK(contains(layout([](auto& all) { all[3].end = all[3].begin; }), misplaced));
  CHECK(contains(layout([](auto& all) { all[3].begin = all[3].end = all[1].begin; }), misplaced));
  // No other section may share bytes, and not with another host.
  CHECK(contains(broken([](Recipe& other) { other.parts[3].model_type = other.parts[3].name = "tf_lite_aux"; }),
                 "section 'tf_lite_aux' begins at byte"));
  CHECK(contains(broken([](Recipe& other) { other.parts[3].type = 1; }), misplaced));
  CHECK(contains(broken([](Recipe& other) { other.parts[2].model_type = other.parts[2].name = "tf_lite_aux"; }),
                 misplaced));
  CHECK(contains(broken([](Recipe& other) {
                   other.parts.insert(other.parts.begin() + 3, {"tf_lite_aux", 3, "tf_lite_aux", "x"});
                   other.edit_layout = [](auto& all) { all[4].begin = all[2].begin + 16384, all[4].end = all[2].end; };
                 }),
                 misplaced));
}

TEST(section_tables_that_disagree) {
  Recipe twice;
  twice.parts[1] = twice.parts[0];
  CHECK_ERROR(twice, "two sections are called 'llm_metadata'");

  Recipe unlisted;
  unlisted.edit_manifest = [](std::string& json) {
    json = fixture::replaced(json, "\"hf_tokenizer\"", "\"hf_tokenizes\"");
  };
  CHECK_ERROR(unlisted, "section 'hf_tokenizer' is not in the manifest");

  Recipe extra;
  extra.edit_manifest = [](std::string& json) {
    json = fixture::replaced(json, "\"sections\":{",
                             "\"sections\":{\"ghost\":{\"bytes\":1,\"sha256\":\"" + std::string(64, '0') + "\"},");
  };
  CHECK_ERROR(extra, "a section 'ghost' that the file does not have");

  Recipe many;
  for (int i = 0; i < 64; ++i) {
    const std::string name = "extra" + std::to_string(i);
    many.parts.push_back({name, 1, name, "x"});
  }
  CHECK_ERROR(many, "lists 69 sections");

  Recipe misplaced;  // another manifest in the middle: the names collide
  misplaced.parts.push_back({"TANDEM_MANIFEST", 1, "tandem_manifest", "x"});
  CHECK_ERROR(misplaced, "two sections are called 'tandem_manifest'");

  Recipe not_last;
  not_last.with_manifest = false;
  not_last.parts.insert(not_last.parts.begin(), {"tandem_manifest", 1, "tandem_manifest", "x"});
  CHECK_ERROR(not_last, "not the last section");
}

TEST(manifest_checksums) {
  const fixture::Built built = fixture::build();
  std::string bytes = built.bytes;
  bytes[built.sections[4].begin + 60] ^= 1;
  CHECK_ERROR(bytes, "its checksum is wrong");
  bytes = built.bytes;
  bytes[16000] ^= 1;  // padding of the header block
  CHECK_ERROR(bytes, "header does not match the checksum");
}
