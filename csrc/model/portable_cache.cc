#include "model/portable_cache.h"

#include <algorithm>

namespace tandem {

bool is_kv_name(const std::string& name) { return name.starts_with("kv_cache_"); }

Result<std::unique_ptr<PortableCache>> PortableCache::create(const std::shared_ptr<const litert::Library>& library,
                                                             const litert::Signature& signature) {
  auto cache = std::make_unique<PortableCache>();
  for (const litert::TensorInfo& input : signature.inputs) {
    if (!is_kv_name(input.name)) continue;
    TANDEM_ASSIGN_OR_RETURN(auto tensor, litert::HostTensor::create(library, input));
    cache->names_.push_back(input.name);
    cache->tensors_.push_back(std::move(tensor));
  }
  return cache;
}

litert::RtTensorBuffer PortableCache::find(const std::string& name) const {
  const auto found = std::find(names_.begin(), names_.end(), name);
  return found == names_.end() ? nullptr : tensors_[static_cast<std::size_t>(found - names_.begin())].buffer();
}

uint64_t PortableCache::bytes() const {
  uint64_t total = 0;
  for (const auto& tensor : tensors_) total += tensor.bytes();
  return total;
}

}  // namespace tandem
