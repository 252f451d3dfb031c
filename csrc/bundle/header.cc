// Reads the fixed prefix and the flatbuffer LiteRTLMMetaData that follows it.
#include "bundle/header.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <string_view>

#include "bundle/flatbuffer.h"

namespace tandem {
namespace {

constexpr std::string_view kMagic = "LITERTLM";
constexpr size_t kPrefixBytes = 32;
constexpr uint64_t kMaxHeaderVisits = 1 << 16;  // more than 16 KiB can hold without sharing

// Slots of the container's schema.
namespace slot {
constexpr int kSystemMetadata = 0, kSectionMetadata = 1;        // LiteRTLMMetaData
constexpr int kEntries = 0;                                     // SystemMetadata
constexpr int kObjects = 0;                                     // SectionMetadata
constexpr int kItems = 0, kBegin = 1, kEnd = 2, kDataType = 3;  // SectionObject
constexpr int kKey = 0, kValueType = 1, kValue = 2;             // KeyValuePair
}  // namespace slot

constexpr uint8_t kStringValue = 9;  // of the union VData
constexpr uint8_t kLastValueType = 12;
// Bytes of the scalar in each member of the union VData (0: a string).
constexpr size_t kValueBytes[kLastValueType + 1] = {0, 1, 1, 2, 2, 4, 4, 4, 1, 0, 8, 8, 8};

constexpr const char* kTypeNames[] = {
    "none",         "generic_binary_data", "deprecated",         "tf_lite_model",     "sp_tokenizer", "llm_metadata",
    "hf_tokenizer", "tf_lite_weights",     "embedding_metadata", "executor_metadata", "tts_metadata", "asr_metadata"};

Status damaged(const std::string& what) {
  return Status(Code::kBundle, what + "; the file is damaged: copy or convert it again");
}

bool is_printable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

uint32_t load_u32(std::span<const std::byte> block, size_t at) {
  uint32_t value;
  std::memcpy(&value, block.data() + at, sizeof(value));
  return value;
}

// Says what a file without our magic is, where that helps.
Status not_a_bundle(std::span<const std::byte> block) {
  const std::string_view text(reinterpret_cast<const char*>(block.data()), block.size());
  if (text.starts_with("GGUF")) {
    return Status(Code::kBundle, "this is a GGUF file; make a bundle of it with `tandem convert`");
  }
  if (text.starts_with("version https://git-lfs")) {
    return Status(Code::kBundle, "this is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`");
  }
  if (text.starts_with("PK")) {
    return Status(Code::kBundle, "this is a zip archive (an older .task bundle?), not a .litertlm bundle");
  }
  return Status(Code::kBundle, "this is not a .litertlm bundle (it does not begin with LITERTLM)");
}

// Walks one list of KeyValuePairs, checks every value and collects those that are text.
void read_items(FlatReader& reader, const FlatVector& list, std::vector<std::pair<std::string, std::string>>* texts) {
  if (list.size() > kMaxSectionItems) return reader.fail(list.position(), "too many items");
  for (uint32_t i = 0; i < list.size() && reader.ok(); ++i) {
    const FlatTable pair = list.table(i);
    const std::string_view key = pair.string(slot::kKey);
    const uint8_t type = pair.scalar<uint8_t>(slot::kValueType);
    const FlatTable value = pair.table(slot::kValue);
    if (!reader.ok()) return;
    if ((type != 0) != static_cast<bool>(value)) return reader.fail(pair.position(), "an item has a type but no value");
    if (type > kLastValueType) continue;  // of a newer schema; its table was checked, its fields are not ours to read
    std::string_view text;
    if (type == kStringValue) {
      text = value.string(0);
    } else if (value) {
      switch (kValueBytes[type]) {
        case 1:
          value.scalar<uint8_t>(0);
          break;
        case 2:
          value.scalar<uint16_t>(0);
          break;
        case 4:
          value.scalar<uint32_t>(0);
          break;
        default:
          value.scalar<uint64_t>(0);
          break;
      }
    }
    if (texts != nullptr && reader.ok() && type == kStringValue) texts->emplace_back(key, text);
  }
}

std::string section_name(const SectionInfo& section) {
  std::string name;
  for (const auto& [key, value] : section.items) {
    if (key == "model_type") name = lower(value);
  }
  if (name.empty()) {
    const bool is_model = section.type_id == kTfLiteModelType || section.type_id == kTfLiteWeightsType;
    name = is_model ? std::string(kMainModelSection) : section.type;  // the container's default
  }
  if (section.type_id == kTfLiteWeightsType) name += ".weights";  // shares its model_type with the model it belongs to
  return name;
}

Result<std::vector<SectionInfo>> read_sections(FlatReader& reader) {
  const FlatTable root = reader.root();
  read_items(reader, root.table(slot::kSystemMetadata).vector(slot::kEntries, 4), nullptr);
  const FlatVector objects = root.table(slot::kSectionMetadata).vector(slot::kObjects, 4);
  if (objects.size() > kMaxSections) {
    return damaged("the header lists " + std::to_string(objects.size()) + " sections (at most " +
                   std::to_string(kMaxSections) + " are allowed)");
  }
  std::vector<SectionInfo> sections;
  std::set<std::string> names;
  for (uint32_t i = 0; i < objects.size() && reader.ok(); ++i) {
    const FlatTable object = objects.table(i);
    SectionInfo section;
    read_items(reader, object.vector(slot::kItems, 4), &section.items);
    section.offset = object.scalar<uint64_t>(slot::kBegin);
    const uint64_t end = object.scalar<uint64_t>(slot::kEnd);
    section.type_id = object.scalar<uint8_t>(slot::kDataType);
    if (!reader.ok()) break;
    if (end < section.offset) return damaged("section " + std::to_string(i) + " ends before it begins");
    section.bytes = end - section.offset;
    const bool known = static_cast<size_t>(section.type_id) < std::size(kTypeNames);
    section.type = known ? kTypeNames[section.type_id] : "type_" + std::to_string(section.type_id);
    section.name = section_name(section);
    if (section.name.size() > kMaxNameBytes || !is_printable(section.name)) {
      return damaged("section " + std::to_string(i) + " has an impossible name");
    }
    if (!names.insert(section.name).second) return damaged("two sections are called '" + section.name + "'");
    sections.push_back(std::move(section));
  }
  if (!reader.ok()) return damaged("the header is malformed: " + reader.error());
  if (sections.empty()) return damaged("the header lists no sections");
  return sections;
}

// Whether `section` is an embedder that shares the bytes of the main model `host`.
bool lies_inside(const SectionInfo& section, const SectionInfo& host) {
  return section.name == kEmbedderSection && section.type_id == kTfLiteModelType && host.name == kMainModelSection &&
         host.type_id == kTfLiteModelType && section.offset > host.offset && section.offset % kHeaderBlockBytes == 0 &&
         section.bytes > 0 && section.offset - host.offset <= host.bytes &&
         section.bytes <= host.bytes - (section.offset - host.offset);
}

}  // namespace

Result<ContainerHeader> parse_header(std::span<const std::byte> block) {
  if (block.size() < kMagic.size() || std::memcmp(block.data(), kMagic.data(), kMagic.size()) != 0) {
    return not_a_bundle(block);
  }
  if (block.size() < kHeaderBlockBytes) {
    return damaged("the file ends inside its header, after " + std::to_string(block.size()) + " bytes");
  }
  block = block.first(kHeaderBlockBytes);
  ContainerHeader header;
  header.major = load_u32(block, 8);
  header.minor = load_u32(block, 12);
  header.patch = load_u32(block, 16);
  if (header.major > kContainerMajor) {
    return Status(Code::kBundle, "the bundle has container version " + std::to_string(header.major) + "." +
                                     std::to_string(header.minor) + ", newer than the version " +
                                     std::to_string(kContainerMajor) + " that this release reads; update tandem-lm");
  }
  if (header.major != kContainerMajor) return damaged("container version " + std::to_string(header.major));
  std::memcpy(&header.end, block.data() + 24, sizeof(header.end));
  if (header.end <= kPrefixBytes || header.end > kHeaderBlockBytes) {
    return damaged("the header ends at byte " + std::to_string(header.end) + " (it must end within " +
                   std::to_string(kHeaderBlockBytes) + ")");
  }
  FlatReader reader(block.subspan(kPrefixBytes, static_cast<size_t>(header.end) - kPrefixBytes), kMaxHeaderVisits);
  TANDEM_ASSIGN_OR_RETURN(header.sections, read_sections(reader));
  return header;
}

Status check_layout(ContainerHeader& header, uint64_t file_bytes) {
  const auto align = [](uint64_t at) { return (at + kHeaderBlockBytes - 1) / kHeaderBlockBytes * kHeaderBlockBytes; };
  uint64_t expected = kHeaderBlockBytes;
  uint64_t end = 0;
  for (size_t i = 0; i < header.sections.size(); ++i) {
    SectionInfo& section = header.sections[i];
    if (i > 0 && lies_inside(section, header.sections[i - 1])) {
      section.nested = true;
      continue;
    }
    if (section.offset != expected) {
      return damaged("section '" + section.name + "' begins at byte " + std::to_string(section.offset) + ", expected " +
                     std::to_string(expected));
    }
    if (section.offset > file_bytes || section.bytes > file_bytes - section.offset) {
      return damaged("the file is truncated: section '" + section.name + "' ends at byte " +
                     std::to_string(section.offset + section.bytes) + ", the file at " + std::to_string(file_bytes));
    }
    if (section.bytes == 0) return damaged("section '" + section.name + "' is empty");
    end = section.offset + section.bytes;
    expected = align(end);
  }
  // Padding behind the last section is allowed, foreign data is not: nothing would ever check it.
  if (file_bytes > expected) {
    return damaged("the file has " + std::to_string(file_bytes) + " bytes, its sections end at " + std::to_string(end));
  }
  return Status();
}

}  // namespace tandem
