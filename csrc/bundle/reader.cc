// Opens a bundle: header, layout, manifest, in this order.
#include "bundle/reader.h"

#include <algorithm>

#include "base/sha256.h"

namespace tandem {
namespace {

Status check_sections(const ContainerHeader& header, const Manifest& manifest) {
  for (const SectionInfo& section : header.sections) {
    if (section.name == kManifestSection) continue;
    const auto entry = manifest.sections.find(section.name);
    if (entry == manifest.sections.end()) {
      return Status(Code::kBundle, "section '" + section.name + "' is not in the manifest; convert the bundle again");
    }
    if (entry->second.bytes != section.bytes) {
      return Status(Code::kBundle, "section '" + section.name + "' has " + std::to_string(section.bytes) +
                                       " bytes, the manifest says " + std::to_string(entry->second.bytes) +
                                       "; convert the bundle again");
    }
  }
  for (const auto& [name, entry] : manifest.sections) {
    const auto has_name = [&](const SectionInfo& section) { return section.name == name; };
    if (std::none_of(header.sections.begin(), header.sections.end(), has_name)) {
      return Status(Code::kBundle, "the manifest names a section '" + name + "' that the file does not have; " +
                                       "convert the bundle again");
    }
  }
  return Status();
}

}  // namespace

Result<Bundle> Bundle::open(const std::string& path) {
  Bundle bundle;
  auto file = FileMap::open(path, FileMap::Access::kReadOnly);
  if (!file.ok()) return Status(Code::kBundle, file.status().message());
  bundle.file_ = std::move(file).value();
  if (const Status status = bundle.load(); !status.ok()) {
    if (status.code() == Code::kIo) return status;  // names the file already
    return Status(status.code(), "bundle '" + path + "': " + status.message());
  }
  return bundle;
}

Status Bundle::load() {
  // Copied, not used from the mapping: what is checked is then what is used, even if the file changes.
  std::vector<std::byte> block(static_cast<size_t>(std::min(kHeaderBlockBytes, file_.file_bytes())));
  TANDEM_RETURN_IF_ERROR(file_.read_at(0, block));
  TANDEM_ASSIGN_OR_RETURN(header_, parse_header(block));
  if (!has(kManifestSection)) {
    return Status(Code::kBundle,
                  "it has no tandem_manifest section, so it was not written by `tandem convert`; bundles of other "
                  "makers are not supported yet: convert the model's checkpoint instead");
  }
  TANDEM_RETURN_IF_ERROR(check_layout(header_, file_.file_bytes()));
  return load_manifest(block);
}

Status Bundle::load_manifest(std::span<const std::byte> header_block) {
  const SectionInfo& info = *find(kManifestSection);
  if (&info != &header_.sections.back()) {
    return Status(Code::kBundle, "its tandem_manifest is not the last section; convert the bundle again");
  }
  if (info.bytes > kMaxManifestBytes + kManifestPrefixBytes) {
    return Status(Code::kBundle, "its manifest has " + std::to_string(info.bytes) + " bytes, more than the limit of " +
                                     std::to_string(kMaxManifestBytes) + "; convert the bundle again");
  }
  std::vector<std::byte> section(static_cast<size_t>(info.bytes));
  TANDEM_RETURN_IF_ERROR(file_.read_at(info.offset, section));
  TANDEM_ASSIGN_OR_RETURN(const std::string_view json, manifest_json(section));
  TANDEM_ASSIGN_OR_RETURN(manifest_, parse_manifest(json));
  if (to_hex(sha256(header_block)) != manifest_.header_sha256) {
    return Status(Code::kBundle,
                  "its header does not match the checksum in its manifest; the file is damaged: copy or "
                  "convert it again");
  }
  manifest_text_ = json;
  hash_ = to_hex(sha256(std::as_bytes(std::span(manifest_text_))));
  return check_sections(header_, manifest_);
}

const SectionInfo* Bundle::find(std::string_view name) const {
  for (const SectionInfo& section : header_.sections) {
    if (section.name == name) return &section;
  }
  return nullptr;
}

std::span<const std::byte> Bundle::section(std::string_view name) const {
  const SectionInfo* info = find(name);
  if (info == nullptr) return {};
  // open() has checked that every section lies inside the file, and so inside the mapping.
  return file_.bytes().subspan(static_cast<size_t>(info->offset), static_cast<size_t>(info->bytes));
}

Result<std::span<const std::byte>> Bundle::require(std::string_view name) const {
  if (has(name)) return section(name);
  return Status(Code::kBundle, "'" + path() + "' has no section '" + std::string(name) + "'; convert the model again");
}

}  // namespace tandem
