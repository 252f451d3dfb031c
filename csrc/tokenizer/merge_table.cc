// Building the hash table of merges; see merge_table.h.
#include "tokenizer/merge_table.h"

#include <algorithm>
#include <bit>

namespace tandem::digest {
namespace {

constexpr unsigned kPerBucket = 2;   // log2 of the merges that share a bucket, about: half a line of the cache
constexpr uint32_t kMaxBucket = 64;  // what is far from random is not a tokenizer's

}  // namespace

Result<MergeTable> MergeTable::build(uint32_t vocab_size, std::span<const Merge> merges) {
  MergeTable table;
  table.id_bits_ = id_bits(vocab_size);
  const unsigned key_bits = 2 * table.id_bits_;
  table.key_mask_ = (uint64_t{1} << key_bits) - 1;
  // As many buckets as there are merges for, and enough for the rest of a key to fit its field.
  const auto wanted = static_cast<unsigned>(std::bit_width(merges.size()));
  const unsigned bucket_bits = std::clamp(wanted > kPerBucket ? wanted - kPerBucket : 1,
                                          key_bits > kRestBits ? key_bits - kRestBits : 1, key_bits);
  table.rest_bits_ = key_bits - bucket_bits;

  table.first_.assign((size_t{1} << bucket_bits) + 1, 0);
  for (const Merge& merge : merges) ++table.first_[table.locate(merge.left, merge.right).bucket];
  uint32_t sum = 0;
  for (uint32_t& one : table.first_) {
    if (one > kMaxBucket) return damaged("too many merges share a bucket");
    sum += one;
    one = sum;  // the end of the bucket, until its entries are in
  }
  table.entries_.resize(merges.size());
  for (size_t rank = merges.size(); rank-- > 0;) {
    const Merge& merge = merges[rank];
    const Place place = table.locate(merge.left, merge.right);
    table.entries_[--table.first_[place.bucket]] =
        uint64_t{place.rest} << (kIdBits + kRankBits) | uint64_t{rank} << kIdBits | merge.merged;
  }
  return table;
}

}  // namespace tandem::digest
