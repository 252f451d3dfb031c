// What becomes of a session's state elsewhere: in a clone, in a file, in the prefix cache.
#include <algorithm>

#include "engine/byte_stream.h"
#include "engine/session.h"

namespace tandem {
namespace {

constexpr uint32_t kMetadata = 0x31534553;  // "SES1"

Sha256Digest digest_of(const SoftTokens& media) {
  Sha256 digest;
  const int64_t head[] = {static_cast<int64_t>(media.kind), media.rows};
  digest.update(std::as_bytes(std::span(head)));
  digest.update(std::as_bytes(std::span(media.hash)));
  return digest.finish();
}

}  // namespace

Result<std::unique_ptr<Session>> Session::clone() {
  const Use use(*this);
  TANDEM_RETURN_IF_ERROR(use.status());
  // Shared pages may all have to be copied one day.
  TANDEM_ASSIGN_OR_RETURN(auto ticket, engine_->admit(cache_->bytes()));
  TANDEM_ASSIGN_OR_RETURN(auto cache, cache_->clone());
  auto copy = std::make_unique<Session>(engine_, *target_, std::move(cache), std::move(ticket));
  copy->tokens_ = tokens_;
  copy->spans_ = spans_;
  copy->cached_ = cached_;
  return copy;  // the n-grams are found again when first needed: a clone must be cheap
}

std::vector<std::byte> Session::describe_media() const {
  ByteWriter out;
  out.put(kMetadata);
  out.put(static_cast<uint32_t>(spans_.size()));
  for (const Span& span : spans_) {
    out.put(span.first);
    out.put(span.rows);
    out.put(span.media.rows);
    out.put(static_cast<int32_t>(span.media.kind));
    out.put(static_cast<uint32_t>(span.media.hash.size()));
    out.put_bytes(std::as_bytes(std::span(span.media.hash)));
    out.put_bytes(std::as_bytes(std::span(*span.media.values)));
  }
  return out.take();
}

bool Session::read_media(std::span<const std::byte> metadata) {
  const int64_t hidden = engine_->bundle().manifest().model.hidden_size;
  ByteReader in(metadata);
  uint32_t format = 0, count = 0;
  if (!in.get(&format) || format != kMetadata || !in.get(&count)) return false;
  int64_t end = 0;
  for (uint32_t i = 0; i < count; ++i) {
    Span span;
    int32_t kind = 0;
    uint32_t hash_bytes = 0;
    std::span<const std::byte> hash, values;
    if (!in.get(&span.first) || !in.get(&span.rows) || !in.get(&span.media.rows) || !in.get(&kind) ||
        !in.get(&hash_bytes) || !in.get_bytes(hash_bytes, &hash)) {
      return false;
    }
    // Checksums tell accidents, not intent: nothing below may rely on them.
    if (kind < 0 || kind > static_cast<int32_t>(MediaKind::kAudio)) return false;
    span.media.kind = static_cast<MediaKind>(kind);
    if (span.first < end || span.first >= position() || span.rows < 1 || span.rows > position() - span.first) {
      return false;
    }
    if (span.media.rows < span.rows || span.media.rows > SequenceCache::kMostContext) return false;
    if (span.block() && span.media.rows != span.rows) return false;
    if (!in.get_bytes(static_cast<uint64_t>(span.media.rows * hidden) * sizeof(float), &values)) return false;
    span.media.hash.assign(reinterpret_cast<const char*>(hash.data()), hash.size());
    auto copy = std::make_shared<std::vector<float>>(values.size() / sizeof(float));
    std::memcpy(copy->data(), values.data(), values.size());
    span.media.values = std::move(copy);
    const int32_t placeholder = engine_->placeholder(span.media.kind);
    const auto first = tokens_.begin() + span.first;
    if (placeholder < 0 || !std::all_of(first, first + span.rows, [&](int32_t id) { return id == placeholder; })) {
      return false;
    }
    if (span.block() && span.first < cached_ && cached_ < span.end()) return false;
    end = span.end();
    spans_.push_back(std::move(span));
  }
  return in.at_end();
}

Status Session::save(const std::string& path) {
  const Use use(*this);
  TANDEM_RETURN_IF_ERROR(use.status());
  cancelled_ = false;
  TANDEM_RETURN_IF_ERROR(catch_up(ends_in_media() ? position() : position() - 1));
  Snapshot snapshot;
  snapshot.bundle = engine_->digest();
  snapshot.position = cached_;
  snapshot.tokens = tokens_;
  snapshot.metadata = describe_media();
  return target_->save(*cache_, path, snapshot);
}

Result<std::unique_ptr<Session>> Session::restore(std::shared_ptr<Engine> engine, const std::string& path) {
  Target& target = engine->target();
  TANDEM_ASSIGN_OR_RETURN(auto cache, target.new_cache());
  TANDEM_ASSIGN_OR_RETURN(Snapshot snapshot, target.restore(*cache, path, engine->digest()));
  TANDEM_ASSIGN_OR_RETURN(auto ticket, engine->admit(cache->bytes()));
  auto session = std::make_unique<Session>(std::move(engine), target, std::move(cache), std::move(ticket));
  const auto count = static_cast<int64_t>(snapshot.tokens.size());
  const int64_t context = session->engine_->max_context();
  if (count > context) {
    return Status(Code::kContextLength, "cannot restore the session in '" + path + "': it has " +
                                            std::to_string(count) + " tokens, more than the context of " +
                                            std::to_string(context) + "; raise max_context");
  }
  const Status known = session->check(snapshot.tokens);
  session->tokens_ = std::move(snapshot.tokens);
  session->cached_ = snapshot.position;
  if (!known.ok() || snapshot.position > count || !session->read_media(snapshot.metadata)) {
    return Status(Code::kIo, "cannot restore the session in '" + path +
                                 "': what it says of its tokens, images and sounds is no saved session's; save the "
                                 "session again");
  }
  return session;
}

void Session::reuse_prefix(int64_t until) {
  PrefixStore* store = engine_->prefixes();
  if (store == nullptr) return;
  const Prefix prefix = known_prefix(until);
  PrefixStore::Found found = store->find({prefix.tokens, prefix.media});
  if (found.cache == nullptr) return;
  cache_ = std::move(found.cache);
  cached_ = found.tokens;
  stats_.reused_tokens += found.tokens;
}

void Session::remember_prefix() const {
  PrefixStore* store = engine_->prefixes();
  if (store == nullptr) return;
  const Prefix prefix = known_prefix(cached_);
  // Only as a whole: a state must have exactly the tokens of its key.
  if (static_cast<int64_t>(prefix.tokens.size()) == cached_) store->insert({prefix.tokens, prefix.media}, *cache_);
}

Session::Prefix Session::known_prefix(int64_t until) const {
  Prefix prefix;
  for (const Span& span : spans_) {
    if (span.first >= until) break;
    if (span.media.hash.empty() || span.end() > until) {  // unknown content, or not there as a whole
      until = span.first;
      break;
    }
    prefix.media.push_back({span.first, span.rows, digest_of(span.media)});
  }
  prefix.tokens = std::span(tokens_).first(static_cast<std::size_t>(std::max<int64_t>(0, until)));
  return prefix;
}

}  // namespace tandem
