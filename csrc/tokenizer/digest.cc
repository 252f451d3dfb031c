// Opening and reading the pre-digested tokenizer section; see digest.h.
#include "tokenizer/digest.h"

#include <algorithm>
#include <array>
#include <bit>
#include <string>

namespace tandem::digest {
namespace {

static_assert(std::endian::native == std::endian::little, "the tables are read as they lie");

constexpr char kMagic[] = "TANDTOKN";
constexpr size_t kBodyBytes = 48;
enum Section {
  kPieces,
  kFlags,
  kText,
  kBytes,
  kPageIndex,
  kPages,
  kBuckets,
  kMerges,
  kAddedRaw,
  kAddedNorm,
  kSections
};
constexpr std::array<const char*, kSections> kNames = {"pieces", "flags",   "text",   "bytes",     "page_index",
                                                       "pages",  "buckets", "merges", "added_raw", "added_norm"};
constexpr size_t kHeaderBytes = kChecksummedFrom + kBodyBytes + 16 * kSections;

Status damaged(const std::string& what) {
  return {Code::kBundle, "tokenizer section: " + what + "; the bundle is damaged, convert or download it again"};
}

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

}  // namespace

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

Result<Digest> Digest::open(std::span<const std::byte> section) {
  if (section.size() < kHeaderBytes) return damaged("shorter than its header");
  if (std::memcmp(section.data(), kMagic, 8) != 0) return damaged("wrong magic number");
  if (const auto version = load<uint32_t>(section, 8); version != kVersion) {
    return Status(Code::kBundle, "tokenizer section: version " + std::to_string(version) + ", this program reads " +
                                     std::to_string(kVersion) + "; convert the model again or update the program");
  }
  if (load<uint32_t>(section, 12) != kHeaderBytes) return damaged("wrong header size");
  if (load<uint64_t>(section, 16) != section.size()) return damaged("wrong length");
  if (load<uint64_t>(section, kChecksumOffset) != checksum(section.subspan(kChecksummedFrom))) {
    return damaged("wrong checksum");
  }

  const auto body = section.subspan(kChecksummedFrom);
  Digest digest;
  digest.flags = load<uint32_t>(body, 0);
  digest.vocab_size = load<uint32_t>(body, 4);
  digest.bos = load<int32_t>(body, 8);
  digest.eos = load<int32_t>(body, 12);
  digest.pad = load<int32_t>(body, 16);
  digest.unk = load<int32_t>(body, 20);
  const auto merges = load<uint32_t>(body, 24), bits = load<uint32_t>(body, 28), pages = load<uint32_t>(body, 32);
  const auto raw = load<uint32_t>(body, 36), normalized = load<uint32_t>(body, 40);
  digest.bucket_bits = bits;
  if (digest.vocab_size == 0 || digest.vocab_size > kMaxVocabulary) return damaged("impossible vocabulary size");
  if (merges > kMaxMerges || bits < 1 || bits > kMaxBucketBits) return damaged("impossible number of merges");
  if (pages > kPageIndexSize) return damaged("impossible number of character pages");
  if (raw > kMaxAdded || normalized > kMaxAdded) return damaged("impossible number of added tokens");
  for (const int32_t id : {digest.bos, digest.eos, digest.pad, digest.unk}) {
    if (!is_id_or_none(id, digest.vocab_size)) return damaged("a named token is outside the vocabulary");
  }

  const uint64_t vocab = digest.vocab_size;
  const std::array<uint64_t, kSections> expected = {4 * (vocab + 1),
                                                    vocab,
                                                    0 /* free */,
                                                    4 * 256,
                                                    4 * kPageIndexSize,
                                                    uint64_t{pages} * kPageSize * 4,
                                                    4 * ((uint64_t{1} << bits) + 1),
                                                    uint64_t{merges} * 16,
                                                    uint64_t{raw} * 16,
                                                    uint64_t{normalized} * 16};
  std::array<std::span<const std::byte>, kSections> parts;
  for (size_t i = 0; i < kSections; ++i) {
    const auto offset = load<uint64_t>(body, kBodyBytes + 16 * i),
               bytes = load<uint64_t>(body, kBodyBytes + 16 * i + 8);
    if (offset < kHeaderBytes || offset > section.size() || bytes > section.size() - offset) {
      return damaged(std::string("table ") + kNames[i] + " lies outside");
    }
    if (i == kText ? bytes >= kMaxTextSection : bytes != expected[i]) {
      return damaged(std::string("table ") + kNames[i] + " has the wrong size");
    }
    parts[i] = section.subspan(offset, bytes);
  }
  digest.pieces = Words(parts[kPieces]);
  digest.token_flags = parts[kFlags];
  digest.text = {reinterpret_cast<const char*>(parts[kText].data()), parts[kText].size()};
  digest.bytes = Words(parts[kBytes]);
  digest.page_index = Words(parts[kPageIndex]);
  digest.pages = Words(parts[kPages]);
  digest.buckets = Words(parts[kBuckets]);
  digest.merges = Words(parts[kMerges]);
  digest.added_raw = AddedTable(Words(parts[kAddedRaw]), digest.text);
  digest.added_normalized = AddedTable(Words(parts[kAddedNorm]), digest.text);
  return digest;
}

std::string_view Digest::piece(uint32_t id) const {
  if (id >= vocab_size) return {};
  const uint32_t begin = pieces.at(id), end = pieces.at(id + 1);
  return begin <= end && end <= text.size() ? text.substr(begin, end - begin) : std::string_view();
}

uint32_t Digest::character(char32_t code_point) const {
  const uint32_t page = page_index.at(code_point / kPageSize);
  if (page == kNone) return kNone;
  return checked(pages.at(size_t{page} * kPageSize + code_point % kPageSize));
}

Merge Digest::merge(uint32_t left, uint32_t right) const {
  uint32_t bucket = left * 0x9E3779B1u + right * 0x85EBCA6Bu;
  bucket ^= bucket >> 15;
  bucket *= 0x2C1B3C6Du;
  bucket >>= 32 - bucket_bits;
  const size_t begin = buckets.at(bucket);
  const size_t end = std::min<size_t>({buckets.at(bucket + 1), begin + kMaxBucket, merges.size() / 4});
  for (size_t i = begin; i < end; ++i) {
    if (merges.at(i * 4) == left && merges.at(i * 4 + 1) == right) {
      const uint32_t id = checked(merges.at(i * 4 + 3));
      return id == kNone ? Merge{} : Merge{merges.at(i * 4 + 2), id};
    }
  }
  return {};
}

std::string_view AddedTable::content(size_t index) const {
  const uint32_t offset = rows_.at(index * 4 + 1), bytes = rows_.at(index * 4 + 2);
  if (bytes > kMaxAddedBytes || offset > text_.size() || bytes > text_.size() - offset) return {};
  return text_.substr(offset, bytes);
}

AddedToken AddedTable::at(size_t index) const {
  return {rows_.at(index * 4), content(index), (rows_.at(index * 4 + 3) & kSpecial) != 0};
}

AddedToken AddedTable::longest_prefix(std::string_view text) const {
  // The tokens that share the first `depth` bytes of the text are the range [low, high), which shrinks byte by byte.
  size_t low = 0, high = size(), found = high;
  const size_t total = size();
  for (size_t depth = 0; depth < text.size() && low < high; ++depth) {
    const auto wanted = static_cast<unsigned char>(text[depth]);
    const auto key = [&](size_t i) {  // -1: the token ends here and sorts first
      const std::string_view one = content(i);
      return depth < one.size() ? static_cast<int>(static_cast<unsigned char>(one[depth])) : -1;
    };
    const auto bound = [&](size_t from, int least) {  // first in [from, high) whose byte is at least `least`
      size_t left = from, right = high;
      while (left < right) {
        const size_t middle = left + (right - left) / 2;
        if (key(middle) < least) {
          left = middle + 1;
        } else {
          right = middle;
        }
      }
      return left;
    };
    low = bound(low, wanted);
    high = bound(low, wanted + 1);
    if (low < high && content(low).size() == depth + 1) found = low;
  }
  return found < total ? at(found) : AddedToken{};
}

}  // namespace tandem::digest
