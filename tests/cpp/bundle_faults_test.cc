// Damaged bundles: flipped bits, truncations and hostile headers end as a Status, and nothing damaged is accepted.
#include <unistd.h>

#include <random>
#include <string>
#include <vector>

#include "bundle/flatbuffer.h"
#include "bundle/header.h"
#include "bundle/reader.h"
#include "bundle_fixture.h"
#include "check.h"

namespace {

constexpr unsigned kSeeds = 1000;

bool opens(const fixture::TempFile& file) {
  const auto bundle = tandem::Bundle::open(file.path());
  if (bundle.ok()) return true;
  CHECK(bundle.status().code() == tandem::Code::kBundle);
  CHECK(!bundle.status().message().empty());
  return false;
}

// Flips one bit of bytes [begin, end) per seed; every one must be refused.
void flip_bits(uint64_t begin, uint64_t end, const std::string& sound) {
  for (unsigned seed = 0; seed < kSeeds; ++seed) {
    std::mt19937_64 random(seed);
    std::string damaged = sound;
    const uint64_t bit = random() % ((end - begin) * 8);
    damaged[begin + bit / 8] = static_cast<char>(damaged[begin + bit / 8] ^ (1 << bit % 8));
    const fixture::TempFile file(damaged);
    if (opens(file)) check::fail(__FILE__, __LINE__, "accepted a flipped bit, seed " + std::to_string(seed));
  }
}

std::span<const std::byte> flat_bytes(const std::vector<char>& copy) { return std::as_bytes(std::span(copy)); }

}  // namespace

TEST(flipped_bits_in_the_header) {
  const fixture::Built built = fixture::build();
  uint64_t header_end;
  std::memcpy(&header_end, built.bytes.data() + 24, sizeof(header_end));
  flip_bits(0, header_end, built.bytes);
  flip_bits(0, 16384, built.bytes);
}

TEST(flipped_bits_around_a_nested_section) {
  fixture::Recipe recipe;
  recipe.parts = fixture::parts_with_embedder();
  const fixture::Built built = fixture::build(recipe);
  uint64_t header_end;
  std::memcpy(&header_end, built.bytes.data() + 24, sizeof(header_end));
  flip_bits(0, header_end, built.bytes);
  const fixture::TempFile file(built.bytes);
  CHECK(opens(file));
  for (const uint64_t length : {built.sections[3].begin, built.sections[3].end, built.sections[2].end}) {
    file.write(std::string_view(built.bytes).substr(0, length));
    CHECK(!opens(file));
  }
}

TEST(flipped_bits_in_the_manifest) {
  const fixture::Built built = fixture::build();
  flip_bits(built.sections.back().begin, built.sections.back().end, built.bytes);
}

TEST(truncation_around_every_edge) {
  const fixture::Built built = fixture::build();
  const fixture::TempFile file(built.bytes);
  CHECK(opens(file));
  std::vector<uint64_t> lengths = {0, 1, 7, 8, 9, 31, 32, 33, 1000};
  for (const fixture::Placed& section : built.sections) {
    for (const uint64_t edge : {section.begin, section.end}) {
      for (const uint64_t length : {edge - 1, edge, edge + 1}) lengths.push_back(length);
    }
  }
  for (const uint64_t length : lengths) {
    file.write(std::string_view(built.bytes).substr(0, length));
    if (length < built.bytes.size()) CHECK(!opens(file));
  }
}

TEST(two_bundles_mixed) {  // the header of one before the manifest of the other
  const fixture::Built one = fixture::build();
  fixture::Recipe recipe;
  recipe.parts[0].bytes[0] = 'M';  // same layout, so the same header; another section hash
  const fixture::Built two = fixture::build(recipe);
  CHECK_EQ(one.bytes.substr(0, 16384), two.bytes.substr(0, 16384));
  recipe.parts[0].model_type = "llm_metadata";  // same name and layout, another header
  const fixture::Built three = fixture::build(recipe);
  const fixture::TempFile file(three.bytes.substr(0, 16384) + one.bytes.substr(16384));
  CHECK(!opens(file));
}

// Without the manifest's protection: the flatbuffer reader alone, on exact-size heap memory so that a sanitizer sees
// any read outside.
TEST(hostile_headers_stay_inside) {
  const std::string sound = fixture::build().bytes.substr(0, 16384);
  uint64_t end;
  std::memcpy(&end, sound.data() + 24, sizeof(end));
  unsigned accepted = 0;
  for (unsigned seed = 0; seed < 20000; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<char> copy(sound.begin(), sound.end());
    for (unsigned i = 0; i <= seed % 4; ++i) copy[32 + random() % (end - 32)] = static_cast<char>(random());
    if (seed % 5 == 0) {  // the flatbuffer alone, so that its end is the end of the memory
      std::vector<char> moved(copy.begin() + 32, copy.begin() + static_cast<std::ptrdiff_t>(end));
      tandem::FlatReader reader(flat_bytes(moved), 10000);
      const auto root = reader.root();
      root.table(0).vector(0, 4).table(0).string(0);
      root.table(1).vector(0, 4).table(1).scalar<uint64_t>(1);
    }
    auto header = tandem::parse_header(flat_bytes(copy));
    accepted += header.ok();
    if (header.ok()) (void)tandem::check_layout(header.value(), 200000);  // either answer, but no crash
  }
  CHECK(accepted > 0);  // harmless bytes exist: names, padding
}

TEST(random_flatbuffers_stay_inside) {
  for (unsigned seed = 0; seed < 20000; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<char> bytes(random() % 200);
    for (char& c : bytes) c = random() % 3 == 0 ? static_cast<char>(random()) : static_cast<char>(random() % 24);
    tandem::FlatReader reader(flat_bytes(bytes), 1000);
    const tandem::FlatTable root = reader.root();
    for (int slot = 0; slot < 4; ++slot) {
      root.string(slot);
      root.scalar<uint64_t>(slot);
      const tandem::FlatVector list = root.vector(slot, 4);
      for (uint32_t i = 0; i < list.size() && reader.ok(); ++i) list.table(i).string(0);
    }
  }
}

TEST(shared_tables_cannot_make_an_endless_walk) {
  const std::string flat =
      fixture::FlatWriter::write(fixture::table({}, {fixture::tables({fixture::table({})}).at(0)}));
  tandem::FlatReader reader(fixture::bytes_of(flat), 100);
  const tandem::FlatVector list = reader.root().vector(0, 4);
  CHECK_EQ(list.size(), 1u);
  for (int i = 0; i < 1000; ++i) list.table(0);
  CHECK(!reader.ok());
  CHECK(fixture::contains(reader.error(), "more elements"));
}

TEST(a_file_that_shrinks_after_opening) {
  const fixture::Built built = fixture::build();
  const fixture::TempFile file(built.bytes);
  const auto bundle = tandem::Bundle::open(file.path());
  CHECK(bundle.ok());
  CHECK_EQ(truncate(file.path().c_str(), 20000), 0);
  CHECK(!bundle.value().file().check_size().ok());
}
