// Byte-pair encoding; see bpe.h.
#include "tokenizer/bpe.h"

#include <algorithm>
#include <functional>

#include "tokenizer/utf8.h"

namespace tandem::bpe {
namespace {

using digest::kNone;

struct Symbol {
  uint32_t id;  // kNone once merged into its left neighbour
  uint32_t previous, next;
};

bool is_special(const digest::Digest& digest, uint32_t id) { return (digest.flags_of(id) & digest::kSpecial) != 0; }

// One symbol per character; a character that the vocabulary lacks becomes its bytes, or unk where a byte is missing.
std::vector<uint32_t> split(const digest::Digest& digest, std::string_view text, bool allow_special) {
  std::vector<uint32_t> ids;
  ids.reserve(text.size());
  const auto unk = static_cast<uint32_t>(digest.unk);
  bool pending_unk = false;  // runs of unknown characters are one unk if the model says so
  for (size_t at = 0; at < text.size();) {
    const utf8::Character one = utf8::decode(text.substr(at));
    const std::string_view bytes = text.substr(at, one.bytes);
    at += one.bytes;
    const uint32_t id = digest.characters.character(one.code_point);
    if (id != kNone && (allow_special || !is_special(digest, id))) {
      if (pending_unk) ids.push_back(unk);
      pending_unk = false;
      ids.push_back(id);
      continue;
    }
    if (digest.has(digest::kByteFallback)) {
      const auto token = [&](char byte) { return digest.characters.byte(static_cast<unsigned char>(byte)); };
      if (std::ranges::none_of(bytes, [&](char byte) { return token(byte) == kNone; })) {
        // A pending unk stays behind these bytes: so does Hugging Face's.
        for (const char byte : bytes) ids.push_back(token(byte));
        continue;
      }
    }
    if (digest.unk < 0) continue;
    if (pending_unk && !digest.has(digest::kFuseUnk)) ids.push_back(unk);
    pending_unk = true;
  }
  if (pending_unk) ids.push_back(unk);
  return ids;
}

}  // namespace

void encode(const digest::Digest& digest, std::string_view text, bool allow_special, std::vector<int32_t>* out) {
  const std::vector<uint32_t> ids = split(digest, text, allow_special);
  const auto count = static_cast<uint32_t>(ids.size());
  std::vector<Symbol> symbols(count);
  for (uint32_t i = 0; i < count; ++i) symbols[i] = {ids[i], i == 0 ? kNone : i - 1, i + 1 < count ? i + 1 : kNone};

  const auto lookup = [&](uint32_t left, uint32_t right) {
    const digest::Merged merge = digest.merges.find(symbols[left].id, symbols[right].id);
    return allow_special || !is_special(digest, merge.id) ? merge : digest::Merged{};
  };
  // Candidates as rank << 32 | place of the left symbol: the smallest is the next merge. One whose pair has changed
  // since shows a different rank when it is looked up again, and is dropped.
  std::vector<uint64_t> heap;
  const auto candidate = [&](uint32_t left) -> uint64_t {
    if (left == kNone || symbols[left].next == kNone) return UINT64_MAX;
    const digest::Merged merge = lookup(left, symbols[left].next);
    return merge.rank == kNone ? UINT64_MAX : uint64_t{merge.rank} << 32 | left;
  };
  for (uint32_t i = 0; i < count; ++i) {
    if (const uint64_t one = candidate(i); one != UINT64_MAX) heap.push_back(one);
  }
  std::ranges::make_heap(heap, std::greater<>());
  const auto push = [&](uint64_t one) {
    if (one == UINT64_MAX) return;
    heap.push_back(one);
    std::ranges::push_heap(heap, std::greater<>());
  };
  while (!heap.empty()) {
    const uint64_t top = heap.front();
    std::ranges::pop_heap(heap, std::greater<>());
    heap.pop_back();
    const auto left = static_cast<uint32_t>(top);
    if (symbols[left].id == kNone || symbols[left].next == kNone) continue;
    const uint32_t right = symbols[left].next;
    const digest::Merged merge = lookup(left, right);
    if (merge.rank != top >> 32) continue;
    symbols[left].id = merge.id;
    symbols[left].next = symbols[right].next;
    symbols[right].id = kNone;
    if (symbols[left].next != kNone) symbols[symbols[left].next].previous = left;
    push(candidate(symbols[left].previous));
    push(candidate(left));
  }
  for (uint32_t i = count == 0 ? kNone : 0; i != kNone; i = symbols[i].next) {
    out->push_back(static_cast<int32_t>(symbols[i].id));
  }
}

}  // namespace tandem::bpe
