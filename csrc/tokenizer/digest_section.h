// The digest as it lies in a bundle: its header, and where its tables are. converter/tokenizer.py writes it and
// describes the layout. Views into the section's bytes; the tables' contents are checked by those who read them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace tandem::digest {

inline constexpr uint32_t kVersion = 2;
inline constexpr uint32_t kNone = 0xFFFFFFFF;
inline constexpr uint32_t kMaxVocabulary = 1u << 20;
inline constexpr uint32_t kMaxMerges = 1u << 24;
inline constexpr uint32_t kMaxTextBytes = 64u << 20;  // of all pieces; the converter takes no larger tokenizer.json
inline constexpr uint32_t kMaxPieceBytes = 0xFFFF;

enum Flag : uint32_t { kNormalizeSpaces = 1, kByteFallback = 2, kFuseUnk = 4, kDecodeSpaces = 8 };
enum TokenFlag : uint8_t {
  kPresent = 1,
  kSpecial = 2,
  kInVocabulary = 4,  // of the model: merges and characters give it
  kStored = 8,        // its text is in the table of pieces
  kAddedRaw = 16,
  kAddedNormalized = 32
};

struct Section {
  uint32_t flags = 0, vocab_size = 0;
  int32_t bos = -1, eos = -1, pad = -1, unk = -1;
  uint32_t merges = 0, text_bytes = 0;
  std::span<const std::byte> tokens, pieces, runs, pairs;

  // Checks the version, every size and the checksum.
  static Result<Section> open(std::span<const std::byte> bytes);
};

// Two pieces that become one, in the order of the merges' ranks. All three are in the model's vocabulary.
struct Merge {
  uint32_t left, right, merged;
};

// TokenFlag by id.
Result<std::vector<uint8_t>> read_token_flags(const Section& section);
Result<std::vector<Merge>> read_merges(const Section& section, std::span<const uint8_t> token_flags);

// Bits that every id of a vocabulary (not empty) fits into.
unsigned id_bits(uint32_t vocab_size);

Status damaged(const std::string& what);

// The checksum that open() compares (tests repair it to reach the checks behind it).
uint64_t checksum(std::span<const std::byte> data);
inline constexpr size_t kChecksumOffset = 24;
inline constexpr size_t kChecksummedFrom = 32;

}  // namespace tandem::digest
