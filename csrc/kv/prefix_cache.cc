#include "kv/prefix_cache.h"

#include <algorithm>
#include <utility>

namespace tandem {
namespace {

constexpr uint64_t kMediumBit = uint64_t{1} << 63;
constexpr int kIndexBits = 24;  // tokens of one medium; as many bits as SequenceCache::kMostContext has

int64_t common(const std::vector<uint64_t>& a, const std::vector<uint64_t>& b) {
  const std::size_t most = std::min(a.size(), b.size());
  return std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(most), b.begin()).first - a.begin();
}

uint64_t key_bytes(std::size_t tokens) { return tokens * sizeof(uint64_t); }

// The largest position up to `position` that is not within a medium.
int64_t outside_media(std::span<const MediaSpan> media, int64_t position) {
  for (const MediaSpan& span : media) {
    if (span.start < position && position < span.start + span.length) return span.start;
  }
  return position;
}

}  // namespace

bool PrefixCache::valid(const PrefixKey& key) {
  const auto count = static_cast<int64_t>(key.tokens.size());
  int64_t end = 0;
  for (const MediaSpan& span : key.media) {
    if (span.start < end || span.length < 1 || span.length > (int64_t{1} << kIndexBits) ||
        span.start > count - span.length) {
      return false;
    }
    end = span.start + span.length;
  }
  return true;
}

PrefixCache::Symbols PrefixCache::symbols(const PrefixKey& key) const {
  Symbols out;
  out.reserve(key.tokens.size());
  for (const int32_t token : key.tokens) out.push_back(static_cast<uint32_t>(token));
  for (const MediaSpan& span : key.media) {
    const auto known = media_.find({span.digest, span.length});
    const uint64_t id = known == media_.end() ? next_medium_ : known->second.id;
    for (int64_t i = 0; i < span.length; ++i) {
      out[static_cast<std::size_t>(span.start + i)] = kMediumBit | id << kIndexBits | static_cast<uint64_t>(i);
    }
  }
  return out;
}

void PrefixCache::release(const std::vector<MediumName>& media) {
  for (const MediumName& name : media) {
    const auto medium = media_.find(name);
    if (--medium->second.entries == 0) media_.erase(medium);
  }
}

PrefixCache::Hit PrefixCache::find(const PrefixKey& request, int64_t most) {
  const std::lock_guard lock(mutex_);
  ++stats_.lookups;
  stats_.tokens_asked += static_cast<int64_t>(request.tokens.size());
  if (!valid(request)) return {};
  const Symbols wanted = symbols(request);
  Entries::iterator best = entries_.end();
  int64_t best_tokens = 0;
  // Away from the request's place, what an entry shares with it only gets less. True to go on.
  const auto consider = [&](Entries::iterator it) {
    const int64_t shared = std::min(common(wanted, it->first), most);
    if (shared <= best_tokens) return false;
    const int64_t usable = outside_media(request.media, shared);
    const bool whole = usable == static_cast<int64_t>(it->first.size());
    if (usable > best_tokens && (whole || usable >= it->second.resume_from)) best = it, best_tokens = usable;
    return true;
  };
  const Entries::iterator place = entries_.lower_bound(wanted);
  for (auto it = place; it != entries_.end() && consider(it); ++it) {
  }
  for (auto it = place; it != entries_.begin() && consider(std::prev(it)); --it) {
  }
  if (best == entries_.end()) return {};
  best->second.used = ++clock_;
  ++stats_.hits;
  stats_.tokens_reused += best_tokens;
  return {best->second.state, static_cast<int64_t>(best->first.size()), best_tokens};
}

bool PrefixCache::insert(const PrefixKey& key, std::shared_ptr<const void> state, int64_t resume_from,
                         std::span<const PageUse> pages) {
  const std::lock_guard lock(mutex_);
  if (key.tokens.empty() || !state || !valid(key)) return false;
  uint64_t alone = key_bytes(key.tokens.size());
  for (const PageUse& page : pages) alone += page.bytes;
  if (alone > budget_) return false;

  Entry entry{std::move(state), resume_from, {pages.begin(), pages.end()}, {}, 0};
  for (const MediaSpan& span : key.media) {
    entry.media.emplace_back(span.digest, span.length);
    Medium& medium = media_[entry.media.back()];
    if (medium.id == 0) medium.id = next_medium_++;
    ++medium.entries;
  }
  Symbols name = symbols(key);
  const auto tokens = static_cast<int64_t>(name.size());

  // The entries that begin with this key stand from its place on, those that it begins with before it.
  const auto place = entries_.lower_bound(name);
  for (auto it = place; it != entries_.end() && common(name, it->first) == tokens; ++it) {
    if (it->second.resume_from <= tokens || static_cast<int64_t>(it->first.size()) == tokens) {
      it->second.used = ++clock_;
      release(entry.media);
      return false;
    }
  }
  for (auto it = place; it != entries_.begin();) {
    const auto before = std::prev(it);
    const int64_t shared = common(name, before->first);
    if (shared == 0) break;
    if (shared == static_cast<int64_t>(before->first.size()) && resume_from <= shared) {
      erase(before);
    } else {
      it = before;
    }
  }

  for (const PageUse& page : entry.pages) {
    Page& known = pages_[page.id];
    if (known.entries++ == 0) bytes_ += known.bytes = page.bytes;
  }
  bytes_ += key_bytes(name.size());
  entry.used = ++clock_;
  entries_.emplace(std::move(name), std::move(entry));
  ++stats_.insertions;
  shrink();
  return true;
}

void PrefixCache::erase(Entries::iterator entry) {
  for (const PageUse& page : entry->second.pages) {
    const auto known = pages_.find(page.id);
    if (--known->second.entries > 0) continue;
    bytes_ -= known->second.bytes;
    pages_.erase(known);
  }
  bytes_ -= key_bytes(entry->first.size());
  release(entry->second.media);
  entries_.erase(entry);
}

void PrefixCache::shrink() {
  while (bytes_ > budget_) {  // the newest fits alone, so that it is never reached
    erase(std::min_element(entries_.begin(), entries_.end(),
                           [](const auto& a, const auto& b) { return a.second.used < b.second.used; }));
    ++stats_.evictions;
  }
}

std::vector<std::shared_ptr<const void>> PrefixCache::states() const {
  const std::lock_guard lock(mutex_);
  std::vector<const Entry*> order;
  for (const auto& [name, entry] : entries_) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) { return a->used > b->used; });
  std::vector<std::shared_ptr<const void>> out;
  for (const Entry* entry : order) out.push_back(entry->state);
  return out;
}

void PrefixCache::erase(const void* state) {
  const std::lock_guard lock(mutex_);
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const auto& item) { return item.second.state.get() == state; });
  if (found != entries_.end()) erase(found);
}

void PrefixCache::set_budget(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  budget_ = bytes;
  shrink();
}

void PrefixCache::clear() {
  const std::lock_guard lock(mutex_);
  while (!entries_.empty()) erase(entries_.begin());
}

PrefixCache::Stats PrefixCache::stats() const {
  const std::lock_guard lock(mutex_);
  Stats out = stats_;
  out.entries = static_cast<int64_t>(entries_.size());
  out.bytes = bytes_;
  out.budget = budget_;
  return out;
}

}  // namespace tandem
