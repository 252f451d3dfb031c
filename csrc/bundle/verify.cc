// Streams the file once through sha256, then walks the models of the sections that were sound.
#include "bundle/verify.h"

#include <algorithm>

#include "base/sha256.h"
#include "bundle/tflite_check.h"

namespace tandem {
namespace {

constexpr size_t kChunkBytes = size_t{4} << 20;

// Reads a file front to back in chunks and reports progress.
class Stream {
 public:
  Stream(const FileMap& file, const VerifyProgress& progress, uint64_t begin = 0)
      : file_(file), progress_(progress), chunk_(kChunkBytes), at_(begin) {}

  uint64_t position() const { return at_; }

  // Passes the bytes up to `end` to `use`.
  template <class Use>
  Status read_to(uint64_t end, Use use) {
    while (at_ < end) {
      const auto part = std::span(chunk_).first(static_cast<size_t>(std::min<uint64_t>(end - at_, kChunkBytes)));
      TANDEM_RETURN_IF_ERROR(file_.read_at(at_, part));
      use(std::span<const std::byte>(part));
      at_ += part.size();
      if (progress_ && !progress_(at_, file_.file_bytes())) return Status(Code::kCancelled, "verify was cancelled");
    }
    return Status();
  }

 private:
  const FileMap& file_;
  const VerifyProgress& progress_;
  std::vector<std::byte> chunk_;
  uint64_t at_;
};

Result<std::string> hash_to(Stream& stream, uint64_t end) {
  Sha256 hash;
  TANDEM_RETURN_IF_ERROR(stream.read_to(end, [&](std::span<const std::byte> part) { hash.update(part); }));
  return to_hex(hash.finish());
}

Result<std::string> hash_again(const FileMap& file, const SectionInfo& section, const VerifyProgress& progress) {
  Stream stream(file, progress, section.offset);
  return hash_to(stream, section.offset + section.bytes);
}

// Whether the bytes up to `end` are all zero.
Result<bool> zero_to(Stream& stream, uint64_t end) {
  bool zero = true;
  TANDEM_RETURN_IF_ERROR(stream.read_to(end, [&](std::span<const std::byte> part) {
    zero = zero && std::all_of(part.begin(), part.end(), [](std::byte b) { return b == std::byte{0}; });
  }));
  return zero;
}

}  // namespace

Result<std::vector<std::string>> verify(const Bundle& bundle, const VerifyProgress& progress) {
  const FileMap& file = bundle.file();
  const Manifest& manifest = bundle.manifest();
  TANDEM_RETURN_IF_ERROR(file.check_size());
  std::vector<std::string> problems;
  Stream stream(file, progress);

  TANDEM_ASSIGN_OR_RETURN(const std::string header_hash, hash_to(stream, kHeaderBlockBytes));
  if (header_hash != manifest.header_sha256) problems.push_back("the header has changed since the bundle was opened");

  const std::vector<SectionInfo>& sections = bundle.sections();
  // A nested section's bytes went by with its host: reading them again can be cancelled, but is no progress.
  const VerifyProgress stalled = [&](uint64_t, uint64_t total) {
    return !progress || progress(stream.position(), total);
  };
  for (size_t i = 0; i < sections.size(); ++i) {
    const SectionInfo& section = sections[i];
    const uint64_t end = section.offset + section.bytes;
    TANDEM_ASSIGN_OR_RETURN(const std::string hash,
                            section.nested ? hash_again(file, section, stalled) : hash_to(stream, end));
    const auto entry = manifest.sections.find(section.name);  // open() made sure: all but the manifest have one
    const bool damaged = entry != manifest.sections.end() && hash != entry->second.sha256;
    if (damaged) {
      problems.push_back("section '" + section.name + "' is damaged: its sha256 is " + hash + ", expected " +
                         entry->second.sha256);
    }
    if (!section.nested) {
      const auto next = std::find_if(sections.begin() + static_cast<std::ptrdiff_t>(i) + 1, sections.end(),
                                     [](const SectionInfo& one) { return !one.nested; });
      const uint64_t next_begin = next == sections.end() ? file.file_bytes() : next->offset;
      TANDEM_ASSIGN_OR_RETURN(const bool padded_with_zeros, zero_to(stream, next_begin));
      if (!padded_with_zeros) problems.push_back("the padding behind section '" + section.name + "' is not zero");
    }

    if (section.type_id == kTfLiteModelType && !damaged) {
      TANDEM_RETURN_IF_ERROR(file.check_size());  // the walk touches mapped pages
      const std::string fault = check_tflite(bundle.section(section.name));
      if (!fault.empty()) problems.push_back("section '" + section.name + "' is not a sound model: " + fault);
    }
  }
  // The manifest section is not in its own list: compare what lies in the file with what was opened.
  const SectionInfo& info = *bundle.find(kManifestSection);
  std::vector<std::byte> text(bundle.manifest_text().size());
  TANDEM_RETURN_IF_ERROR(file.read_at(info.offset + info.bytes - text.size(), text));
  if (to_hex(sha256(text)) != bundle.hash()) problems.push_back("the manifest has changed since the bundle was opened");
  return problems;
}

}  // namespace tandem
