// The header of a .litertlm container: magic, version and the table of sections. Nothing here touches a file.
// Depends on base.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"

namespace tandem {

inline constexpr uint64_t kHeaderBlockBytes = 16384;  // the header and its padding; also the alignment of sections
inline constexpr uint32_t kContainerMajor = 1;
inline constexpr int kTfLiteModelType = 3;  // AnySectionDataType
inline constexpr int kTfLiteWeightsType = 7;
inline constexpr std::string_view kMainModelSection = "tf_lite_prefill_decode";
inline constexpr std::string_view kEmbedderSection = "tf_lite_embedder";  // only for other runtimes
inline constexpr size_t kMaxSections = 64;
inline constexpr size_t kMaxSectionItems = 64;
inline constexpr size_t kMaxNameBytes = 128;

// What the container says about one section.
struct SectionInfo {
  std::string name;     // its model_type in lower case; without one, the name of its data type ("llm_metadata", ...)
  std::string type;     // name of its data type ("tf_lite_model", ...), "type_N" when unknown
  int type_id = 0;      // AnySectionDataType of the container's schema
  uint64_t offset = 0;  // in the file
  uint64_t bytes = 0;
  bool nested = false;  // a part of the section before it, with which it shares its bytes
  std::vector<std::pair<std::string, std::string>> items;  // its text items (model_type, backend_constraint, ...)
};

struct ContainerHeader {
  uint32_t major = 0, minor = 0, patch = 0;
  uint64_t end = 0;                   // of the flatbuffer, in the file
  std::vector<SectionInfo> sections;  // in the file's order
};

// Reads the header from the first kHeaderBlockBytes of a file (or the whole of a shorter one). Messages do not name
// the file: the caller does.
Result<ContainerHeader> parse_header(std::span<const std::byte> block);

// Checks that sections are ordered, aligned, without overlap or hole, and inside a file of `file_bytes` bytes. One
// overlap is allowed and marked as `nested`: the embedder lies inside the model whose embedding table it shares.
Status check_layout(ContainerHeader& header, uint64_t file_bytes);

}  // namespace tandem
