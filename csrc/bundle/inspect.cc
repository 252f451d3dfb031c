// Collects what an opened bundle knows about itself.
#include "bundle/inspect.h"

#include <utility>

#include "base/json.h"

namespace tandem {

std::string inspect(const Bundle& bundle) {
  const ContainerHeader& header = bundle.header();
  const auto number = [](uint32_t value) { return std::to_string(value); };
  Json container;
  container.set("version", number(header.major) + "." + number(header.minor) + "." + number(header.patch));
  container.set("header_end", header.end);

  Json sections(Json::Array{});
  uint64_t section_bytes = 0;
  for (const SectionInfo& section : bundle.sections()) {
    Json items = Json::object();
    for (const auto& [key, value] : section.items) {
      if (items.find(key) == nullptr) items.set(key, value);
    }
    Json entry;
    entry.set("name", section.name).set("type", section.type);
    entry.set("offset", section.offset).set("bytes", section.bytes);
    entry.set("items", std::move(items));
    sections.add(std::move(entry));
    if (!section.nested) section_bytes += section.bytes;
  }

  const uint64_t file_bytes = bundle.file().file_bytes();
  Json totals;
  totals.set("file", file_bytes).set("sections", section_bytes);
  totals.set("padding", file_bytes - kHeaderBlockBytes - section_bytes);

  Json result;
  result.set("path", bundle.path()).set("hash", bundle.hash());
  result.set("container", std::move(container)).set("sections", std::move(sections)).set("totals", std::move(totals));
  // open() has parsed the same text with the same limits, so this cannot fail.
  JsonLimits limits;
  limits.max_bytes = kMaxManifestBytes;
  auto manifest = Json::parse(bundle.manifest_text(), limits);
  result.set("manifest", manifest.ok() ? std::move(manifest).value() : Json());
  return result.write(2);
}

}  // namespace tandem
