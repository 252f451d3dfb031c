// Header and tables of the tokenizer's digest; see digest_section.h.
#include "tokenizer/digest_section.h"

#include <bit>
#include <cstring>

#include "tokenizer/byte_reader.h"

namespace tandem::digest {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are read as they lie");

constexpr char kMagic[] = "TANDTOKN";
constexpr size_t kSizesOffset = kChecksummedFrom + 32;  // of the tables
constexpr size_t kTables = 4;
constexpr size_t kHeaderBytes = kSizesOffset + 4 * kTables;
constexpr size_t kSpareBytes = 7;  // behind the pairs, so that eight bytes can be read wherever a pair begins

template <class T>
T load(std::span<const std::byte> data, size_t offset) {
  T value;
  std::memcpy(&value, data.data() + offset, sizeof value);
  return value;
}

bool is_id_or_none(int32_t id, uint32_t vocab_size) {
  return id == -1 || (id >= 0 && static_cast<uint32_t>(id) < vocab_size);
}

uint64_t mix(uint64_t word, uint64_t place) {
  word += place * 0x9E3779B97F4A7C15;
  word ^= word >> 32;
  word *= 0xD6E8FEB86659FD93;
  return word ^ (word >> 29);
}

Status other_version(uint32_t version) {
  std::string message = "tokenizer section: version " + std::to_string(version) + ", this program reads version " +
                        std::to_string(kVersion) + "; convert the model again";
  if (version > kVersion) message += ", or update the program";
  return {Code::kBundle, std::move(message)};
}

}  // namespace

unsigned id_bits(uint32_t vocab_size) { return static_cast<unsigned>(std::bit_width((vocab_size - 1) | 1)); }

Status damaged(const std::string& what) {
  return {Code::kBundle, "tokenizer section: " + what + "; the bundle is damaged, convert or download it again"};
}

uint64_t checksum(std::span<const std::byte> data) {
  uint64_t sum = data.size();
  const size_t words = data.size() / 8;
  for (size_t i = 0; i < words; ++i) sum += mix(load<uint64_t>(data, i * 8), i + 1);
  if (const size_t rest = data.size() % 8; rest != 0) {
    uint64_t last = 0;
    std::memcpy(&last, data.data() + words * 8, rest);
    sum += mix(last, words + 1);
  }
  return sum;
}

Result<Section> Section::open(std::span<const std::byte> bytes) {
  // The version before the size of the header, which differs between versions.
  if (bytes.size() < kChecksummedFrom) return damaged("shorter than its header");
  if (std::memcmp(bytes.data(), kMagic, 8) != 0) return damaged("wrong magic number");
  if (const auto version = load<uint32_t>(bytes, 8); version != kVersion) return other_version(version);
  if (bytes.size() < kHeaderBytes) return damaged("shorter than its header");
  if (load<uint32_t>(bytes, 12) != kHeaderBytes) return damaged("wrong header size");
  if (load<uint64_t>(bytes, 16) != bytes.size()) return damaged("wrong length");
  if (load<uint64_t>(bytes, kChecksumOffset) != checksum(bytes.subspan(kChecksummedFrom))) {
    return damaged("wrong checksum");
  }

  const auto body = bytes.subspan(kChecksummedFrom);
  Section section;
  section.flags = load<uint32_t>(body, 0);
  section.vocab_size = load<uint32_t>(body, 4);
  section.bos = load<int32_t>(body, 8);
  section.eos = load<int32_t>(body, 12);
  section.pad = load<int32_t>(body, 16);
  section.unk = load<int32_t>(body, 20);
  section.merges = load<uint32_t>(body, 24);
  section.text_bytes = load<uint32_t>(body, 28);
  if (section.vocab_size == 0 || section.vocab_size > kMaxVocabulary) return damaged("impossible vocabulary size");
  if (section.merges > kMaxMerges) return damaged("impossible number of merges");
  if (section.text_bytes > kMaxTextBytes) return damaged("impossible length of the pieces");
  for (const int32_t id : {section.bos, section.eos, section.pad, section.unk}) {
    if (!is_id_or_none(id, section.vocab_size)) return damaged("a named token is outside the vocabulary");
  }
  size_t at = kHeaderBytes;
  std::span<const std::byte>* const tables[kTables] = {&section.tokens, &section.pieces, &section.runs, &section.pairs};
  for (size_t i = 0; i < kTables; ++i) {
    const auto size = load<uint32_t>(bytes, kSizesOffset + 4 * i);
    if (size > bytes.size() - at) return damaged("a table lies outside");
    *tables[i] = bytes.subspan(at, size);
    at += size;
  }
  if (at != bytes.size()) return damaged("the tables do not fill it");
  return section;
}

Result<std::vector<uint8_t>> read_token_flags(const Section& section) {
  std::vector<uint8_t> flags;
  flags.reserve(section.vocab_size);
  ByteReader reader(section.tokens);
  while (!reader.done()) {
    uint32_t ids = 0;
    std::string_view value;
    if (!reader.number(&ids) || !reader.text(1, &value) || ids > section.vocab_size - flags.size()) {
      return damaged("the table of tokens is malformed");
    }
    flags.insert(flags.end(), ids, static_cast<uint8_t>(value[0]));
  }
  if (flags.size() != section.vocab_size) return damaged("the table of tokens does not cover the vocabulary");
  return flags;
}

Result<std::vector<Merge>> read_merges(const Section& section, std::span<const uint8_t> token_flags) {
  const unsigned bits = id_bits(section.vocab_size);
  const uint64_t pair_bytes = (uint64_t{section.merges} * 2 * bits + 7) / 8;
  if (section.pairs.size() != pair_bytes + kSpareBytes) return damaged("the table of pairs has the wrong size");
  const auto in_vocabulary = [&](uint32_t id) { return id < token_flags.size() && (token_flags[id] & kInVocabulary); };

  std::vector<Merge> merges;
  merges.reserve(section.merges);
  ByteReader runs(section.runs);
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  uint32_t expected = 0;  // the next run's token, if it does not jump
  uint64_t at = 0;        // in bits
  while (!runs.done()) {
    uint32_t head = 0, jump = 0;
    if (!runs.number(&head) || ((head & 1) != 0 && !runs.number(&jump)))
      return damaged("the table of runs is malformed");
    const uint32_t merged = expected + ((jump >> 1) ^ (0u - (jump & 1)));
    const size_t count = size_t{head >> 1} + 1;
    if (count > section.merges - merges.size()) return damaged("the runs have more merges than there are");
    if (!in_vocabulary(merged)) return damaged("a merge gives a token outside the vocabulary");
    for (size_t i = 0; i < count; ++i, at += 2 * bits) {
      const uint64_t pair = load<uint64_t>(section.pairs, at / 8) >> (at % 8);  // at most 7 + 40 bits matter
      const Merge merge = {static_cast<uint32_t>(pair & mask), static_cast<uint32_t>(pair >> bits & mask), merged};
      if (!in_vocabulary(merge.left) || !in_vocabulary(merge.right)) {
        return damaged("a merge takes a token outside the vocabulary");
      }
      merges.push_back(merge);
    }
    expected = merged + 1;
  }
  if (merges.size() != section.merges) return damaged("the runs have fewer merges than there are");
  return merges;
}

}  // namespace tandem::digest
