#include "bundle/signatures.h"

#include <algorithm>
#include <cstdint>
#include <limits>

#include "bundle/flatbuffer.h"

namespace tandem {
namespace {

constexpr uint64_t kMaxVisits = 1 << 16;
constexpr std::size_t kMaxFlatbufferBytes = std::numeric_limits<int32_t>::max();
constexpr int kSignatures = 7;    // slot of Model
constexpr int kSignatureKey = 2;  // slot of SignatureDef

}  // namespace

std::vector<std::string> signature_keys(std::span<const std::byte> model) {
  FlatReader reader(model.first(std::min(model.size(), kMaxFlatbufferBytes)), kMaxVisits);
  std::vector<std::string> keys;
  const FlatVector list = reader.root().vector(kSignatures, 4);
  for (uint32_t i = 0; i < list.size() && reader.ok(); ++i) keys.emplace_back(list.table(i).string(kSignatureKey));
  if (!reader.ok()) keys.clear();
  return keys;
}

}  // namespace tandem
