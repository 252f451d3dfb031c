// An opened bundle (.litertlm file): header and manifest verified, sections mapped but not read.
// Depends on base. Thread rule: immutable after open, so all members may be called from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_map.h"
#include "base/status.h"
#include "bundle/header.h"
#include "bundle/manifest.h"

namespace tandem {

inline constexpr std::string_view kManifestSection = "tandem_manifest";

class Bundle {
 public:
  // Checks the header, the layout of the sections against the file's size, and the manifest with its checksums of
  // itself and of the header block. Reads only the header block and the manifest: the bytes of the other sections are
  // what `verify` (bundle/verify.h) checks.
  static Result<Bundle> open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  int fd() const { return file_.fd(); }  // owned by the bundle; with find(name)->offset and ->bytes for LiteRT
  const FileMap& file() const { return file_; }

  bool has(std::string_view name) const { return find(name) != nullptr; }
  const SectionInfo* find(std::string_view name) const;             // nullptr when there is none
  std::span<const std::byte> section(std::string_view name) const;  // mapped bytes; empty when there is none
  // The same, or kBundle that names the file and the section.
  Result<std::span<const std::byte>> require(std::string_view name) const;
  const std::vector<SectionInfo>& sections() const { return header_.sections; }  // in the file's order
  const ContainerHeader& header() const { return header_; }

  const Manifest& manifest() const { return manifest_; }
  const std::string& manifest_text() const { return manifest_text_; }  // its JSON
  // Identity of the bundle, as hex sha256: covers the header and, by their checksums, every section.
  const std::string& hash() const { return hash_; }

 private:
  Bundle() = default;
  Status load();
  Status load_manifest(std::span<const std::byte> header_block);

  FileMap file_;
  ContainerHeader header_;
  std::string manifest_text_;
  Manifest manifest_;
  std::string hash_;
};

}  // namespace tandem
