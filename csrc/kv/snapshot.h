// A sequence on disk: its keys and values, its tokens, and whatever else the caller wants back, in one file that is
// written atomically and restored by mapping it.
//
// Version 1, little-endian; every section begins at a multiple of 64 and is padded with zeros to one:
//   header    magic "TANDEMKV", version, the bundle's SHA-256, position, sizes and checksums of the sections, the
//   shapes
//             of the layers, the SHA-256 of all that
//   tokens    int32 each
//   metadata  bytes of the caller
//   layers    one section each: the pages (sequence_cache.h) of which every row is in use, as they are in memory; then,
//             of the others, [strip][slot] the rows in use alone. In use are positions below `position` that a ring has
//             not lost.
// So the file has, but for the header (56 bytes per layer) and the padding, the bytes of the rows, tokens and metadata.
//
// restore() reads and checks all of it once (checksum.h says against what), since a flipped bit of a key would silently
// change the text. Then whole pages stay in the mapped file, private to the process: they take memory of its own only
// where they are written, and only the others (at most a few per layer) are copied. A file that is cut short *while* it
// is mapped ends the process (SIGBUS), as with every mapping; atomic writing never does that to a file in use.
// Depends on base.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/sha256.h"
#include "base/status.h"
#include "kv/sequence_cache.h"

namespace tandem {

struct Snapshot {
  Sha256Digest bundle{};  // of the manifest, or whatever tells the caller's bundles apart
  int64_t position = 0;   // tokens whose keys and values are in the cache
  std::vector<int32_t> tokens;
  std::vector<std::byte> metadata;
};

// Writes `snapshot` with the content of `cache` below snapshot.position. kInvalidRequest: the cache does not hold that
// position; kIo: the system's reason, and no file has changed.
Status save_snapshot(const std::string& path, const Snapshot& snapshot, const SequenceCache& cache);

// Fills `cache`, as SequenceCache::create() gave it, from the file; it gets the max_rows() that the saved one had, and
// its views change. `threads` share the reading. Whatever is wrong with
// the file is an error that says what, leaves `cache` as it was and takes no memory beyond the file's size:
//   kIo              damaged, cut short, no snapshot, of another version
//   kInvalidRequest  of another bundle, other layers, another type of cache
//   kContextLength   longer than the cache
Result<Snapshot> restore_snapshot(const std::string& path, const Sha256Digest& bundle, SequenceCache& cache,
                                  int threads);

// All but the keys and values, which are neither read nor checked; of any bundle.
Result<Snapshot> read_snapshot(const std::string& path);

}  // namespace tandem
