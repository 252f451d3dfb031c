#include "kv/snapshot.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <span>
#include <type_traits>

#include "base/file_map.h"
#include "base/thread_pool.h"
#include "kv/atomic_file.h"
#include "kv/checksum.h"

namespace tandem {
namespace {

static_assert(std::endian::native == std::endian::little, "the file is written as memory is");

constexpr char kMagic[8] = {'T', 'A', 'N', 'D', 'E', 'M', 'K', 'V'};
constexpr uint32_t kVersion = 1;
constexpr uint64_t kAlignment = 64;
constexpr uint32_t kMostLayers = 1024;

struct Head {
  char magic[8] = {};
  uint32_t version = 0;
  uint32_t header_bytes = 0;  // with the layers and the digest
  Sha256Digest bundle{};
  int64_t position = 0;
  int64_t max_rows = 0;  // of the cache: it decides how rings are laid out
  uint64_t file_bytes = 0;
  uint64_t token_count = 0;
  uint64_t metadata_bytes = 0;
  uint64_t tokens_checksum = 0;
  uint64_t metadata_checksum = 0;
  uint32_t type = 0;
  uint32_t layer_count = 0;
  uint64_t page_slots = 0;
};
static_assert(sizeof(Head) == 120 && std::is_trivially_copyable_v<Head>);

struct LayerHead {
  int64_t kv_heads = 0, head_dim = 0, window = 0;
  int64_t ring = 0;    // slots; 0: linear
  int64_t oldest = 0;  // rows [oldest, position) are in the file
  uint64_t bytes = 0;
  uint64_t checksum = 0;
};
static_assert(sizeof(LayerHead) == 56 && std::is_trivially_copyable_v<LayerHead>);

struct Header {
  Head head;
  std::vector<LayerHead> layers;
};

constexpr uint64_t padded(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }
constexpr uint64_t header_bytes(uint64_t layers) {
  return sizeof(Head) + layers * sizeof(LayerHead) + sizeof(Sha256Digest);
}

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span<const T>(values));
}

std::vector<std::byte> encode(const Header& header) {
  std::vector<std::byte> out(header_bytes(header.layers.size()));
  std::memcpy(out.data(), &header.head, sizeof(Head));
  std::memcpy(out.data() + sizeof(Head), header.layers.data(), header.layers.size() * sizeof(LayerHead));
  const std::size_t end = out.size() - sizeof(Sha256Digest);
  const Sha256Digest digest = sha256(std::span(out).first(end));
  std::memcpy(out.data() + end, digest.data(), digest.size());
  out.resize(padded(out.size()));
  return out;
}

// What is wrong with one file.
struct Complaint {
  const std::string& path;
  Status operator()(Code code, const std::string& what) const {
    return {code, "cannot restore the session in '" + path + "': " + what};
  }
  Status damaged(const std::string& what) const {
    return (*this)(Code::kIo, what + "; the file is damaged, save the session again");
  }
};

// Reads and checks everything that can be checked without knowing the bundle. Sizes are then within the file.
Result<Header> decode(const FileMap& file, const Complaint& complain) {
  Header header;
  Head& head = header.head;
  if (file.file_bytes() < header_bytes(0)) return complain(Code::kIo, "it is too short for a saved session");
  std::vector<std::byte> raw(sizeof(Head));
  TANDEM_RETURN_IF_ERROR(file.read_at(0, raw));
  std::memcpy(&head, raw.data(), sizeof(Head));
  if (std::memcmp(head.magic, kMagic, sizeof(kMagic)) != 0) return complain(Code::kIo, "it is no saved session");
  if (head.version != kVersion) {
    return complain(Code::kIo, "it has version " + std::to_string(head.version) + " of the format, and only " +
                                   std::to_string(kVersion) + " can be read; save the session again");
  }
  if (head.layer_count > kMostLayers || head.header_bytes != header_bytes(head.layer_count) ||
      padded(head.header_bytes) > file.file_bytes()) {
    return complain.damaged("its header has an impossible size");
  }
  raw.resize(padded(head.header_bytes));
  TANDEM_RETURN_IF_ERROR(file.read_at(0, raw));
  header.layers.resize(head.layer_count);
  std::memcpy(header.layers.data(), raw.data() + sizeof(Head), head.layer_count * sizeof(LayerHead));
  if (raw != encode(header)) return complain.damaged("its header does not match the header's SHA-256");
  if (head.file_bytes != file.file_bytes()) {
    return complain.damaged("it has " + std::to_string(file.file_bytes()) + " bytes and should have " +
                            std::to_string(head.file_bytes));
  }
  uint64_t left = head.file_bytes - raw.size();
  const auto take = [&](uint64_t bytes) {  // at most 1026 sections: cannot wrap around, as each is within the file
    if (bytes > left || padded(bytes) > left) return false;
    left -= padded(bytes);
    return true;
  };
  bool fits = head.token_count <= left / sizeof(int32_t) && take(head.token_count * sizeof(int32_t)) &&
              take(head.metadata_bytes);
  for (const LayerHead& layer : header.layers) fits = fits && take(layer.bytes);
  if (!fits || left != 0) return complain.damaged("its sections do not add up to its size");
  const int64_t most = SequenceCache::kMostContext;
  if (head.position < 0 || head.position > most || head.max_rows < 0 || head.max_rows > most) {
    return complain.damaged("its position is impossible");
  }
  for (const LayerHead& layer : header.layers) {
    if (layer.ring < 0 || layer.oldest < 0 || layer.oldest > head.position || (layer.window == 0 && layer.oldest > 0) ||
        (layer.ring > 0 && head.position - layer.oldest > layer.ring)) {
      return complain.damaged("its layers cannot hold its position");
    }
  }
  return header;
}

// Tokens and metadata; `at` becomes the offset of the first layer.
Result<Snapshot> read_content(const FileMap& file, const Header& header, const Complaint& complain, uint64_t* at) {
  const Head& head = header.head;
  Snapshot out;
  out.bundle = head.bundle;
  out.position = head.position;
  *at = padded(head.header_bytes);
  const auto read = [&](auto& values, uint64_t count, uint64_t expected, const char* what) -> Status {
    constexpr uint64_t kSize = sizeof(values[0]);
    std::vector<std::byte> section(padded(count * kSize));
    TANDEM_RETURN_IF_ERROR(file.read_at(*at, section));
    const auto padding = section.begin() + static_cast<std::ptrdiff_t>(count * kSize);
    if (std::any_of(padding, section.end(), [](std::byte byte) { return byte != std::byte{0}; })) {
      return complain.damaged(std::string("its ") + what + " have a wrong size");
    }
    if (checksum(section) != expected)
      return complain.damaged(std::string("its ") + what + " do not match their checksum");
    values.resize(count);
    if (count > 0) std::memcpy(values.data(), section.data(), count * kSize);
    *at += section.size();
    return {};
  };
  TANDEM_RETURN_IF_ERROR(read(out.tokens, head.token_count, head.tokens_checksum, "tokens"));
  TANDEM_RETURN_IF_ERROR(read(out.metadata, head.metadata_bytes, head.metadata_checksum, "metadata"));
  return out;
}

}  // namespace

// Knows where the rows of a cache are, in memory and in a file.
class SnapshotCodec {
 public:
  // Slots [first, end) of a page, all in use.
  struct Piece {
    std::size_t page = 0;
    int64_t first = 0, end = 0;
    bool whole() const { return end - first == SequenceCache::kPageSlots; }
  };

  // Where the rows of a layer are, in the order of the file.
  static std::vector<Piece> pieces(const LayerHead& layer, int64_t position) {
    std::vector<Piece> whole, rest;
    for (int64_t token = layer.oldest; token < position;) {
      const int64_t slot = layer.ring > 0 ? token % layer.ring : token, first = slot % SequenceCache::kPageSlots;
      int64_t count = std::min(position - token, SequenceCache::kPageSlots - first);
      if (layer.ring > 0) count = std::min(count, layer.ring - slot);
      const Piece piece{static_cast<std::size_t>(slot / SequenceCache::kPageSlots), first, first + count};
      (piece.whole() ? whole : rest).push_back(piece);
      token += count;
    }
    whole.insert(whole.end(), rest.begin(), rest.end());
    return whole;
  }

  // All but the checksum.
  static LayerHead describe(const SequenceCache& cache, std::size_t i, int64_t position) {
    const CacheLayer& layer = cache.layers_[i];
    LayerHead out;
    out.kv_heads = layer.kv_heads, out.head_dim = layer.head_dim, out.window = layer.window;
    out.ring = cache.views_[i].k.ring;
    out.oldest = std::min(cache.oldest(i), position);
    out.bytes = bytes(cache, i, position - out.oldest);
    return out;
  }

  static uint64_t bytes(const SequenceCache& cache, std::size_t i, int64_t rows) {
    return static_cast<uint64_t>(rows) * (cache.storage_[i].page_bytes / SequenceCache::kPageSlots);
  }

  // Calls visit(bytes in memory) for everything of a layer that is in use, in the order of the file; stops at errors.
  template <class Visit>
  static Status each(const SequenceCache& cache, std::size_t i, const LayerHead& layer, int64_t position,
                     Visit&& visit) {
    const std::vector<SequenceCache::Strip> strips = cache.strips(i);
    for (const Piece& piece : pieces(layer, position)) {
      const PageRef& page = cache.storage_[i].pages[piece.page];
      if (!page) return {Code::kInvalidRequest, "cannot save a session: its cache was not written up to its position"};
      const auto* data = reinterpret_cast<const std::byte*>(page->data());
      if (piece.whole()) {
        TANDEM_RETURN_IF_ERROR(visit(std::span(data, page->bytes())));
        continue;
      }
      for (const SequenceCache::Strip& strip : strips) {
        TANDEM_RETURN_IF_ERROR(visit(std::span(data + strip.offset + piece.first * strip.row_bytes,
                                               static_cast<std::size_t>((piece.end - piece.first) * strip.row_bytes))));
      }
    }
    return {};
  }

  // Builds the pages of a layer from its section and puts them into `cache`.
  static Status load(SequenceCache& cache, std::size_t i, const LayerHead& layer, int64_t position,
                     const std::shared_ptr<const FileMap>& file, std::byte* section) {
    const std::vector<SequenceCache::Strip> strips = cache.strips(i);
    cache.storage_[i].lost = layer.oldest;
    for (std::size_t page = 0; page < cache.storage_[i].pages.size(); ++page) cache.set_page(i, page, {});
    for (const Piece& piece : pieces(layer, position)) {
      const std::size_t page_bytes = cache.storage_[i].page_bytes;
      if (piece.whole()) {
        cache.set_page(i, piece.page, KvPage::in_file(file, reinterpret_cast<char*>(section), page_bytes));
        section += page_bytes;
        continue;
      }
      TANDEM_RETURN_IF_ERROR(cache.own(i, piece.page, 0));
      for (const SequenceCache::Strip& strip : strips) {
        const auto count = static_cast<std::size_t>((piece.end - piece.first) * strip.row_bytes);
        std::memcpy(cache.storage_[i].pages[piece.page]->data() + strip.offset + piece.first * strip.row_bytes, section,
                    count);
        section += count;
      }
    }
    return {};
  }

  static void finish(SequenceCache& from, const Head& head, SequenceCache& into) {
    std::swap(from.storage_, into.storage_);
    into.max_rows_ = head.max_rows;
    into.high_water_ = head.position;
    into.set_views();
  }
};

Status save_snapshot(const std::string& path, const Snapshot& snapshot, const SequenceCache& cache) {
  if (snapshot.position < 0 || snapshot.position > cache.high_water() || !cache.holds(snapshot.position)) {
    return {Code::kInvalidRequest, "cannot save a session at position " + std::to_string(snapshot.position) +
                                       ": its cache does not hold that; continue or prefill it first"};
  }
  Header header;
  Head& head = header.head;
  std::copy(std::begin(kMagic), std::end(kMagic), head.magic);
  head.version = kVersion;
  head.bundle = snapshot.bundle;
  head.position = snapshot.position;
  head.max_rows = cache.max_rows();
  head.token_count = snapshot.tokens.size();
  head.metadata_bytes = snapshot.metadata.size();
  head.type = static_cast<uint32_t>(cache.type());
  head.layer_count = static_cast<uint32_t>(cache.layers().size());
  head.page_slots = static_cast<uint64_t>(SequenceCache::kPageSlots);
  head.header_bytes = static_cast<uint32_t>(header_bytes(head.layer_count));
  head.file_bytes =
      padded(head.header_bytes) + padded(head.token_count * sizeof(int32_t)) + padded(head.metadata_bytes);
  if (head.layer_count > kMostLayers) return {Code::kInvalidRequest, "cannot save a session of so many layers"};
  for (std::size_t i = 0; i < head.layer_count; ++i) {
    header.layers.push_back(SnapshotCodec::describe(cache, i, head.position));
    head.file_bytes += padded(header.layers.back().bytes);
  }

  TANDEM_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path, head.file_bytes));
  TANDEM_RETURN_IF_ERROR(file.append(encode(header)));  // a place for it: the checksums come last
  // A section is everything that is appended until end().
  Checksum sum;
  uint64_t section = 0;
  const auto append = [&](std::span<const std::byte> bytes) -> Status {
    sum.update(bytes);
    section += bytes.size();
    return file.append(bytes);
  };
  const auto end = [&](uint64_t* result) -> Status {
    static constexpr std::byte kZeros[kAlignment] = {};
    TANDEM_RETURN_IF_ERROR(append(std::span(kZeros).first(static_cast<std::size_t>(padded(section) - section))));
    *result = sum.finish();
    sum = {};
    section = 0;
    return {};
  };
  TANDEM_RETURN_IF_ERROR(append(bytes_of(snapshot.tokens)));
  TANDEM_RETURN_IF_ERROR(end(&head.tokens_checksum));
  TANDEM_RETURN_IF_ERROR(append(snapshot.metadata));
  TANDEM_RETURN_IF_ERROR(end(&head.metadata_checksum));
  for (std::size_t i = 0; i < header.layers.size(); ++i) {
    TANDEM_RETURN_IF_ERROR(SnapshotCodec::each(cache, i, header.layers[i], head.position, append));
    TANDEM_RETURN_IF_ERROR(end(&header.layers[i].checksum));
  }
  TANDEM_RETURN_IF_ERROR(file.write_at(0, encode(header)));
  return file.commit();
}

Result<Snapshot> restore_snapshot(const std::string& path, const Sha256Digest& bundle, SequenceCache& cache,
                                  int threads) {
  const Complaint complain{path};
  TANDEM_ASSIGN_OR_RETURN(FileMap opened, FileMap::open(path, FileMap::Access::kPrivateWritable));
  const auto file = std::make_shared<FileMap>(std::move(opened));
  TANDEM_ASSIGN_OR_RETURN(const Header header, decode(*file, complain));
  const Head& head = header.head;
  if (head.bundle != bundle) {
    return complain(Code::kInvalidRequest, "it belongs to another bundle (" + to_hex(head.bundle).substr(0, 12) +
                                               "..., this is " + to_hex(bundle).substr(0, 12) + "...)");
  }
  if (head.type != static_cast<uint32_t>(cache.type())) {
    return complain(Code::kInvalidRequest, "its cache is of another type; open the engine with the kv_dtype it had");
  }
  if (head.page_slots != static_cast<uint64_t>(SequenceCache::kPageSlots) ||
      head.layer_count != cache.layers().size()) {
    return complain(Code::kInvalidRequest, "its layers are not those of this model");
  }
  if (head.position > cache.max_context()) {
    return complain(Code::kContextLength, "it has " + std::to_string(head.position) +
                                              " tokens, more than the context of " +
                                              std::to_string(cache.max_context()) + "; raise max_context");
  }
  TANDEM_ASSIGN_OR_RETURN(const auto fresh,
                          SequenceCache::create(cache.layers(), cache.max_context(), head.max_rows, cache.type()));
  for (std::size_t i = 0; i < header.layers.size(); ++i) {
    const LayerHead expected = SnapshotCodec::describe(*fresh, i, 0);
    const LayerHead& layer = header.layers[i];
    if (layer.kv_heads != expected.kv_heads || layer.head_dim != expected.head_dim || layer.window != expected.window) {
      return complain(Code::kInvalidRequest, "its layers are not those of this model");
    }
    if (layer.ring != expected.ring) {
      return complain(Code::kInvalidRequest,
                      "its sliding layers are laid out for another max_context; open the engine "
                      "with the max_context it had");
    }
    if (layer.bytes != SnapshotCodec::bytes(*fresh, i, head.position - layer.oldest)) {
      return complain.damaged("layer " + std::to_string(i) + " has a wrong size");
    }
  }
  uint64_t at = 0;
  TANDEM_ASSIGN_OR_RETURN(Snapshot snapshot, read_content(*file, header, complain, &at));

  struct Section {
    std::size_t layer;
    std::span<std::byte> bytes;
  };
  std::vector<Section> sections;
  for (std::size_t i = 0; i < header.layers.size(); ++i) {
    sections.push_back({i, file->writable_bytes().subspan(at, padded(header.layers[i].bytes))});
    at += sections.back().bytes.size();
  }
  TANDEM_RETURN_IF_ERROR(file->check_size());
  std::vector<Section> by_size = sections;  // the longest first, so that the threads end together
  std::sort(by_size.begin(), by_size.end(),
            [](const Section& a, const Section& b) { return a.bytes.size() > b.bytes.size(); });
  std::vector<char> good(sections.size(), 0);
  ThreadPool pool(std::max(1, threads));
  pool.run(static_cast<int64_t>(by_size.size()), [&](int64_t n) {
    const Section& one = by_size[static_cast<std::size_t>(n)];
    good[one.layer] = checksum(one.bytes) == header.layers[one.layer].checksum;
  });
  for (std::size_t i = 0; i < good.size(); ++i) {
    if (!good[i])
      return complain.damaged("the keys and values of layer " + std::to_string(i) + " do not match their checksum");
  }

  for (const Section& one : sections) {
    TANDEM_RETURN_IF_ERROR(
        SnapshotCodec::load(*fresh, one.layer, header.layers[one.layer], head.position, file, one.bytes.data()));
  }
  SnapshotCodec::finish(*fresh, head, cache);
  file->close_file();  // many sessions may sleep and wake: the mapping is enough
  return snapshot;
}

Result<Snapshot> read_snapshot(const std::string& path) {
  const Complaint complain{path};
  TANDEM_ASSIGN_OR_RETURN(const FileMap file, FileMap::open(path, FileMap::Access::kReadOnly));
  TANDEM_ASSIGN_OR_RETURN(const Header header, decode(file, complain));
  uint64_t at = 0;
  return read_content(file, header, complain, &at);
}

}  // namespace tandem
