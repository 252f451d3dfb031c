#include "engine/prefix_store.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "engine/byte_stream.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSuffix = ".tandem-prefix";
constexpr uint32_t kMetadata = 0x31584650;  // "PFX1"

std::vector<std::byte> metadata_of(const std::vector<MediaSpan>& media, int64_t resume_from) {
  ByteWriter out;
  out.put(kMetadata);
  out.put(resume_from);
  out.put(static_cast<uint32_t>(media.size()));
  for (const MediaSpan& span : media) {
    out.put(span.start);
    out.put(span.length);
    out.put(span.digest);
  }
  return out.take();
}

bool read_metadata(std::span<const std::byte> bytes, std::vector<MediaSpan>* media, int64_t* resume_from) {
  ByteReader in(bytes);
  uint32_t kind = 0, count = 0;
  if (!in.get(&kind) || kind != kMetadata || !in.get(resume_from) || !in.get(&count)) return false;
  for (uint32_t i = 0; i < count; ++i) {
    MediaSpan span;
    if (!in.get(&span.start) || !in.get(&span.length) || !in.get(&span.digest)) return false;
    media->push_back(span);
  }
  return in.at_end();
}

Status failure(const char* action, const std::string& path, const std::error_code& error) {
  return {Code::kIo, std::string("cannot ") + action + " '" + path + "' of the prefix cache: " + error.message()};
}

}  // namespace

Result<std::unique_ptr<PrefixStore>> PrefixStore::open(Target& target, const Sha256Digest& bundle, uint64_t bytes,
                                                       const std::string& dir, const std::string& name) {
  std::unique_ptr<PrefixStore> store(new PrefixStore(target, bundle, bytes));
  if (dir.empty()) return store;
  store->folder_ = (fs::path(dir) / name).string();
  std::error_code error;
  fs::create_directories(store->folder_, error);
  if (error) return failure("make the folder", store->folder_, error);
  const std::lock_guard lock(store->disk_mutex_);
  TANDEM_RETURN_IF_ERROR(store->scan());
  return store;
}

std::string PrefixStore::path_of(const Key& key) const {
  Sha256 digest;
  digest.update(std::as_bytes(std::span(key.tokens)));
  for (const MediaSpan& span : key.media) {
    const int64_t place[] = {span.start, span.length};
    digest.update(std::as_bytes(std::span(place)));
    digest.update(std::as_bytes(std::span(span.digest)));
  }
  return (fs::path(folder_) / (to_hex(digest.finish()).substr(0, 40) + kSuffix)).string();
}

Status PrefixStore::scan() {
  struct Seen {
    fs::file_time_type time;
    std::string path;
    uint64_t bytes;
  };
  std::set<std::string> known;
  for (const auto& state : disk_.states()) known.insert(static_cast<const File*>(state.get())->path);
  std::vector<Seen> seen;
  listed_.clear();
  std::error_code error;
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error)) {
    std::error_code gone;  // another process may remove files meanwhile
    const Seen one{it->last_write_time(gone), it->path().string(), it->file_size(gone)};
    if (gone || !one.path.ends_with(kSuffix)) continue;
    listed_.insert(one.path);
    if (!known.contains(one.path)) seen.push_back(one);
  }
  if (error) return failure("read the folder", folder_, error);
  std::sort(seen.begin(), seen.end(), [](const Seen& a, const Seen& b) { return a.time < b.time; });
  for (const Seen& one : seen) {  // the last used last, as the index counts
    Result<Snapshot> snapshot = read_snapshot(one.path);
    if (!snapshot.ok() || snapshot.value().bundle != bundle_) continue;
    auto file = std::make_shared<File>();
    file->path = one.path;
    file->bytes = one.bytes;
    file->key.tokens = std::move(snapshot.value().tokens);
    int64_t resume_from = 0;
    if (!read_metadata(snapshot.value().metadata, &file->key.media, &resume_from)) continue;
    const PageUse use{file.get(), file->bytes};
    disk_.insert(file->key.view(), file, resume_from, {&use, 1});
  }
  return {};
}

void PrefixStore::keep(const std::shared_ptr<const State>& state) {
  const std::vector<PageUse> pages = state->cache->pages();
  memory_.insert(state->key.view(), state, state->cache->resume_from(), pages);
}

void PrefixStore::insert(const PrefixKey& key, const TargetCache& cache) {
  if (static_cast<int64_t>(key.tokens.size()) < kLeastTokens) return;
  auto state = std::make_shared<State>();
  state->key = {{key.tokens.begin(), key.tokens.end()}, {key.media.begin(), key.media.end()}};
  auto copy = cache.parked();
  if (!copy.ok()) return;
  state->cache = std::move(copy).value();
  keep(state);
}

std::shared_ptr<const PrefixStore::State> PrefixStore::read(const File& file) {
  auto fresh = target_.new_cache();
  if (!fresh.ok()) return nullptr;
  const auto restored = target_.restore(*fresh.value(), file.path, bundle_);
  std::error_code ignored;
  const bool same = restored.ok() && restored.value().tokens == file.key.tokens &&
                    restored.value().position == static_cast<int64_t>(file.key.tokens.size());
  if (!same) {
    disk_.erase(&file);
    // Damaged, or gone already; what merely does not fit here stays.
    if (!restored.ok() && restored.status().code() == Code::kIo) fs::remove(file.path, ignored);
    return nullptr;
  }
  fs::last_write_time(file.path, fs::file_time_type::clock::now(), ignored);  // the order of use, for other processes
  auto kept = fresh.value()->parked();
  if (!kept.ok()) return nullptr;
  auto state = std::make_shared<State>();
  state->key = file.key;
  state->cache = std::move(kept).value();
  keep(state);
  return state;
}

PrefixStore::Found PrefixStore::find(const PrefixKey& request) {
  const auto most = static_cast<int64_t>(request.tokens.size());
  PrefixCache::Hit hit = memory_.find(request, most);
  bool from_disk = false;
  if (!folder_.empty()) {
    PrefixCache::Hit filed = disk_.find(request, most);
    if (filed.tokens >= hit.tokens + kLeastTokens) {         // a file is read as a whole
      const std::shared_ptr<const void> file = filed.state;  // stays while it is read
      filed.state = read(*static_cast<const File*>(file.get()));
      from_disk = filed.state != nullptr;
      if (from_disk) hit = filed;
    }
  }
  Found found;
  if (hit.tokens >= kLeastTokens) {
    auto copy = static_cast<const State*>(hit.state.get())->cache->clone();
    if (copy.ok() && copy.value()->rewind(hit.tokens) == hit.tokens) {
      found = {std::move(copy).value(), hit.tokens};
    }
  }
  const std::lock_guard lock(stats_mutex_);
  ++stats_.lookups;
  stats_.tokens_asked += most;
  stats_.hits += found.cache != nullptr;
  stats_.disk_hits += found.cache != nullptr && from_disk;
  stats_.tokens_reused += found.tokens;
  return found;
}

Status PrefixStore::write(const State& state) {
  auto file = std::make_shared<File>();
  file->key = state.key;
  file->path = path_of(state.key);
  Snapshot snapshot;
  snapshot.bundle = bundle_;
  snapshot.tokens = state.key.tokens;
  snapshot.position = static_cast<int64_t>(snapshot.tokens.size());
  snapshot.metadata = metadata_of(state.key.media, state.cache->resume_from());
  for (const PageUse& page : state.cache->pages()) file->bytes += page.bytes;
  const PageUse use{file.get(), file->bytes};
  // False: too large, or what is there covers it.
  if (!disk_.insert(state.key.view(), file, state.cache->resume_from(), {&use, 1})) return {};
  Status status = target_.save(*state.cache, file->path, snapshot);
  if (!status.ok()) disk_.erase(file.get());
  return status;
}

Status PrefixStore::flush() {
  if (folder_.empty()) return {};
  const std::lock_guard lock(disk_mutex_);
  TANDEM_RETURN_IF_ERROR(scan());
  Status status;
  const auto states = memory_.states();
  for (auto state = states.rbegin(); state != states.rend() && status.ok(); ++state) {  // the last used last
    status = write(*static_cast<const State*>(state->get()));
  }
  // Not those that have come since the scan: another process wrote them.
  for (const auto& state : disk_.states()) listed_.erase(static_cast<const File*>(state.get())->path);
  std::error_code ignored;
  for (const std::string& path : listed_) fs::remove(path, ignored);
  return status;
}

PrefixStore::Stats PrefixStore::stats() const {
  const PrefixCache::Stats memory = memory_.stats(), disk = disk_.stats();
  const std::lock_guard lock(stats_mutex_);
  Stats out = stats_;
  out.entries = memory.entries;
  out.evictions = memory.evictions;
  out.bytes = memory.bytes;
  out.budget = memory.budget;
  out.disk_entries = disk.entries;
  out.disk_bytes = disk.bytes;
  return out;
}

}  // namespace tandem
