// Sessions on disk: what comes back, how large the file is, and that nothing but a good file of this bundle is
// accepted.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/sha256.h"
#include "kv/checksum.h"
#include "kv/snapshot.h"
#include "kv_fixture.h"

using namespace tandem;
using namespace fixture;

namespace {

Sha256Digest digest_of(const std::string& text) { return sha256(std::as_bytes(std::span(text))); }
const Sha256Digest kBundle = digest_of("a bundle");

// A folder that is gone afterwards.
struct Folder {
  std::string path;
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "tandem-kv-XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string file(const std::string& name = "session") const { return path + "/" + name; }
  int64_t count() const {
    return std::distance(std::filesystem::directory_iterator(path), std::filesystem::directory_iterator());
  }
};

std::string read_all(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void write_all(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

Sequence grown(KvType type, int64_t position, uint64_t seed = 1) {
  Sequence out{make(type), {}};
  Random random{seed};
  while (out.position() < position) append(out, random.tokens(std::min(kRows, position - out.position())));
  return out;
}

Snapshot describe(const Sequence& sequence) {
  Snapshot out;
  out.bundle = kBundle;
  out.position = sequence.position();
  for (uint32_t token : sequence.tokens) out.tokens.push_back(static_cast<int32_t>(token));
  for (const char c : std::string("sampler state")) out.metadata.push_back(static_cast<std::byte>(c));
  return out;
}

Status save(const std::string& path, const Sequence& sequence) {
  return save_snapshot(path, describe(sequence), *sequence.cache);
}

// The restored sequence; a cache that is null when it was refused.
Sequence restore(const std::string& path, KvType type, Status* status = nullptr) {
  Sequence out{make(type), {}};
  const auto result = restore_snapshot(path, kBundle, *out.cache, 2);
  if (status) *status = result.status();
  if (!result.ok()) return {};
  CHECK_EQ(result.value().position, static_cast<int64_t>(result.value().tokens.size()));
  out.tokens.assign(result.value().tokens.begin(), result.value().tokens.end());
  return out;
}

// Makes the header's digest right again after its bytes were changed.
std::string sealed(std::string file) {
  uint32_t header = 0;
  std::memcpy(&header, file.data() + 12, 4);
  if (header < 32 || header > file.size()) return file;
  const Sha256Digest digest = sha256(std::as_bytes(std::span(file).first(header - 32)));
  std::memcpy(file.data() + header - 32, digest.data(), 32);
  return file;
}

}  // namespace

TEST(what_was_saved_comes_back) {
  const Folder folder;
  for (KvType type : {KvType::kF32, KvType::kF16, KvType::kI8}) {
    for (int64_t position : {0, 1, 59, 160, 191, 192, 200, 384, 500, 768, 1000}) {
      Sequence a = grown(type, position);
      CHECK(save(folder.file(), a).ok());
      Sequence b = restore(folder.file(), type);
      CHECK(b.cache != nullptr);
      if (!b.cache) continue;
      CHECK(b.tokens == a.tokens);
      CHECK_EQ(wrong_rows(b), 0);
      for (int64_t p = 0; p <= position; ++p) CHECK_EQ(a.cache->holds(p), b.cache->holds(p));
    }
  }
  CHECK_EQ(folder.count(), 1);
}

TEST(metadata_and_tokens_can_be_read_alone) {
  const Folder folder;
  const Sequence a = grown(KvType::kF16, 100);
  CHECK(save(folder.file(), a).ok());
  const auto read = read_snapshot(folder.file());
  CHECK(read.ok());
  const Snapshot expected = describe(a);
  CHECK(read.value().metadata == expected.metadata);
  CHECK(read.value().tokens == expected.tokens);
  CHECK(read.value().bundle == kBundle);
  CHECK_EQ(read.value().position, 100);
}

TEST(a_restored_cache_goes_on_as_any_other) {
  const Folder folder;
  for (KvType type : {KvType::kF16, KvType::kI8}) {
    Sequence a = grown(type, 450);
    rewind(a, 440);  // saved behind what the rings have seen
    CHECK(save(folder.file(), a).ok());
    const std::string before = read_all(folder.file());
    Random random{9};
    std::vector<Sequence> all;
    for (int i = 0; i < 2; ++i) all.push_back(restore(folder.file(), type));
    all.push_back(clone(all[0]));
    for (int step = 0; step < 60; ++step) {
      Sequence& one = all[static_cast<size_t>(random.below(static_cast<int64_t>(all.size())))];
      if (step % 7 == 3) rewind(one, std::max<int64_t>(0, one.position() - random.below(40)));
      if (step % 11 == 5) all.push_back(clone(one));
      append(all[static_cast<size_t>(random.below(static_cast<int64_t>(all.size())))], random.tokens(random.below(30)));
    }
    for (const Sequence& one : all) CHECK_EQ(wrong_rows(one), 0);
    CHECK(read_all(folder.file()) == before);  // nothing reached the file
    CHECK(save(folder.file("again"), all[1]).ok());
    const Sequence again = restore(folder.file("again"), type);
    CHECK(again.cache && again.tokens == all[1].tokens && wrong_rows(again) == 0);
  }
}

TEST(a_saved_file_can_be_replaced_while_it_is_mapped) {
  const Folder folder;
  const Sequence a = grown(KvType::kF16, 400, 1), b = grown(KvType::kF16, 450, 2);
  CHECK(save(folder.file(), a).ok());
  const Sequence restored = restore(folder.file(), KvType::kF16);
  CHECK(save(folder.file(), b).ok());
  CHECK_EQ(wrong_rows(restored), 0);
  CHECK_EQ(wrong_rows(restore(folder.file(), KvType::kF16)), 0);
}

TEST(the_file_has_the_bytes_of_the_rows_in_use) {
  const Folder folder;
  for (KvType type : {KvType::kF32, KvType::kF16, KvType::kI8}) {
    for (int64_t position : {5, 300, 1000}) {
      CHECK(save(folder.file(), grown(type, position)).ok());
      uint64_t rows = 0;
      const auto probe = make(type);
      for (int i = 0; i < 4; ++i) {
        const CacheLayer& layer = kLayers[static_cast<size_t>(i)];
        const int64_t ring = probe->k(i).ring, count = ring > 0 ? std::min(ring, position) : position;
        const int64_t row = layer.head_dim * kv_element_bytes(type) + (type == KvType::kI8 ? 4 : 0);
        rows += static_cast<uint64_t>(2 * layer.kv_heads * count * row);
      }
      const uint64_t rest = 4 * static_cast<uint64_t>(position) + 13, header = 120 + 4 * 56 + 32;
      const uint64_t size = std::filesystem::file_size(folder.file());
      CHECK(size >= rows + rest + header && size < rows + rest + header + 7 * 64);
    }
  }
}

TEST(a_position_that_a_ring_has_lost_is_not_saved) {
  const Folder folder;
  Sequence a = grown(KvType::kF16, 900);
  Snapshot snapshot = describe(a);
  snapshot.position = 500;
  CHECK(save_snapshot(folder.file(), snapshot, *a.cache).code() == Code::kInvalidRequest);
  snapshot.position = 901;
  CHECK(save_snapshot(folder.file(), snapshot, *a.cache).code() == Code::kInvalidRequest);
  CHECK_EQ(folder.count(), 0);
}

TEST(a_failed_save_leaves_the_old_file_and_nothing_else) {
  const Folder folder;
  const Sequence a = grown(KvType::kF16, 30);
  CHECK(save(folder.path + "/no/such/folder", a).code() == Code::kIo);
  std::filesystem::create_directory(folder.file("taken"));
  CHECK(save(folder.file("taken"), a).code() == Code::kIo);  // a folder has that name
  CHECK_EQ(folder.count(), 1);
}

TEST(files_of_others_are_refused_with_the_reason) {
  const Folder folder;
  const Sequence a = grown(KvType::kF16, 450);
  CHECK(save(folder.file(), a).ok());
  const auto refused = [&](SequenceCache& cache, const Sha256Digest& bundle, Code code, const std::string& reason) {
    const Status status = restore_snapshot(folder.file(), bundle, cache, 1).status();
    CHECK(status.code() == code);
    if (status.message().find(reason) == std::string::npos) check::fail(__FILE__, __LINE__, status.message());
    if (status.message().find(folder.file()) == std::string::npos) check::fail(__FILE__, __LINE__, "names no file");
  };
  const auto other = [&](std::vector<CacheLayer> layers, int64_t context = kContext, int64_t rows = kRows) {
    return SequenceCache::create(layers, context, rows, KvType::kF16).value();
  };
  refused(*make(KvType::kF16), digest_of("another"), Code::kInvalidRequest, "another bundle");
  refused(*make(KvType::kI8), kBundle, Code::kInvalidRequest, "another type");
  refused(*other({kLayers[0]}), kBundle, Code::kInvalidRequest, "not those of this model");
  auto layers = kLayers;
  layers[3].head_dim = 8;
  refused(*other(layers), kBundle, Code::kInvalidRequest, "not those of this model");
  refused(*other(kLayers, 449), kBundle, Code::kContextLength, "raise max_context");
  const auto longer = other(kLayers, 5000);  // only full layers differ: welcome
  CHECK(restore_snapshot(folder.file(), kBundle, *longer, 1).ok());
  CHECK(longer->prepare(4000, 60).ok());
  CHECK(save(folder.file(), grown(KvType::kF16, 100)).ok());
  refused(*other(kLayers, 150), kBundle, Code::kInvalidRequest, "laid out for another max_context");  // has no rings
}

TEST(a_widened_cache_keeps_its_rings) {
  const Folder folder;
  Sequence a = grown(KvType::kF16, 700);
  a.cache = a.cache->widened(700, 200).value();
  append(a, Random{3}.tokens(150));
  CHECK(save(folder.file(), a).ok());
  const Sequence b = restore(folder.file(), KvType::kF16);
  CHECK(b.cache && b.cache->max_rows() == 200 && wrong_rows(b) == 0);
  for (int64_t p = 0; b.cache && p <= 850; ++p) CHECK_EQ(a.cache->holds(p), b.cache->holds(p));
}

TEST(a_refused_file_changes_nothing) {
  const Folder folder;
  CHECK(save(folder.file(), grown(KvType::kF16, 450)).ok());
  std::string bytes = read_all(folder.file());
  bytes[bytes.size() - 1000] = static_cast<char>(bytes[bytes.size() - 1000] ^ 1);
  write_all(folder.file(), bytes);
  Sequence a = grown(KvType::kF16, 300, 4);
  CHECK(!restore_snapshot(folder.file(), kBundle, *a.cache, 1).ok());
  CHECK_EQ(wrong_rows(a), 0);
}

TEST(flipped_bits_are_found) {
  const Folder folder;
  CHECK(save(folder.file(), grown(KvType::kI8, 450)).ok());
  const std::string good = read_all(folder.file());
  Random random{11};
  for (int seed = 0; seed < 200; ++seed) {
    std::string bad = good;
    // Half of them in the header, tokens and metadata, which are the smaller part.
    const int64_t at = seed % 2 == 0 ? random.below(static_cast<int64_t>(bad.size())) : random.below(2500);
    bad[static_cast<size_t>(at)] = static_cast<char>(bad[static_cast<size_t>(at)] ^ (1 << random.below(8)));
    write_all(folder.file(), bad);
    Status status;
    CHECK(!restore(folder.file(), KvType::kI8, &status).cache);
    CHECK(!status.message().empty());
  }
}

TEST(cut_and_lengthened_files_are_refused) {
  const Folder folder;
  CHECK(save(folder.file(), grown(KvType::kF16, 450)).ok());
  const std::string good = read_all(folder.file());
  Random random{12};
  for (int seed = 0; seed < 200; ++seed) {
    write_all(
        folder.file(),
        good.substr(0, static_cast<size_t>(seed < 8 ? seed * 50 : random.below(static_cast<int64_t>(good.size())))));
    CHECK(!restore(folder.file(), KvType::kF16).cache);
    CHECK(!read_snapshot(folder.file()).ok() || seed >= 8);
  }
  write_all(folder.file(), good + std::string(64, '\0'));
  CHECK(!restore(folder.file(), KvType::kF16).cache);
  CHECK(restore_snapshot(folder.path, kBundle, *make(KvType::kF16), 1).status().code() == Code::kIo);
}

// Every field of the header, set to extremes, with a digest that is right.
TEST(lying_headers_are_refused) {
  const Folder folder;
  CHECK(save(folder.file(), grown(KvType::kF16, 450)).ok());
  const std::string good = read_all(folder.file());
  int accepted = 0;
  for (size_t at = 8; at + 8 <= 120 + 4 * 56; at += 4) {
    for (uint64_t lie : {uint64_t{0}, uint64_t{1}, uint64_t{0x7fffffff}, uint64_t{0xffffffff}, uint64_t{1} << 40,
                         uint64_t{0x7fffffffffffffff}, ~uint64_t{0}, ~uint64_t{63}}) {
      for (size_t width : {size_t{4}, size_t{8}}) {
        std::string bad = good;
        std::memcpy(bad.data() + at, &lie, width);
        if (bad == good) continue;
        write_all(folder.file(), sealed(bad));
        Sequence restored = restore(folder.file(), KvType::kF16);
        read_snapshot(folder.file()).ok();
        accepted += restored.cache != nullptr;
      }
    }
  }
  CHECK_EQ(accepted, 0);
}

TEST(other_versions_and_other_files_say_so) {
  const Folder folder;
  CHECK(save(folder.file(), grown(KvType::kF16, 10)).ok());
  std::string bytes = read_all(folder.file());
  Status status;
  bytes[8] = 2;
  write_all(folder.file(), sealed(bytes));
  restore(folder.file(), KvType::kF16, &status);
  CHECK(status.message().find("version 2") != std::string::npos);
  write_all(folder.file(), std::string(4096, 'x'));
  restore(folder.file(), KvType::kF16, &status);
  CHECK(status.message().find("no saved session") != std::string::npos);
}

TEST(checksums_do_not_depend_on_the_pieces) {
  std::string text;
  Random random{3};
  for (int i = 0; i < 1000; ++i) text += static_cast<char>(random.next());
  const auto bytes = std::as_bytes(std::span(text));
  const uint64_t whole = checksum(bytes);
  for (int round = 0; round < 50; ++round) {
    Checksum sum;
    for (auto rest = bytes; !rest.empty();) {
      const auto take = std::min(rest.size(), static_cast<size_t>(random.below(200)));
      sum.update(rest.first(take));
      rest = rest.subspan(take);
    }
    CHECK_EQ(sum.finish(), whole);
  }
  CHECK(checksum(bytes.first(999)) != whole);
  CHECK(checksum(bytes.first(0)) != checksum(std::as_bytes(std::span("", 1))));
  // The same bit flipped in two words of one lane must not cancel out, whichever bit it is.
  for (int bit = 0; bit < 64; ++bit) {
    std::string twice = text;
    for (size_t word : {size_t{2}, size_t{10}}) {
      char& byte = twice[word * 8 + static_cast<size_t>(bit / 8)];
      byte = static_cast<char>(byte ^ (1 << bit % 8));
    }
    CHECK(checksum(std::as_bytes(std::span(twice))) != whole);
  }
}
