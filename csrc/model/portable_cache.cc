#include "model/portable_cache.h"

#include <algorithm>
#include <cstring>

namespace tandem {

bool is_kv_name(const std::string& name) { return name.starts_with("kv_cache_"); }

Result<std::unique_ptr<PortableCache>> PortableCache::create(const std::shared_ptr<const litert::Library>& library,
                                                             const litert::Signature& signature) {
  auto cache = std::make_unique<PortableCache>();
  cache->library_ = library;
  for (const litert::TensorInfo& input : signature.inputs) {
    if (!is_kv_name(input.name)) continue;
    if (input.shape().size() != 4 || input.elements() < 1) {
      return Status(Code::kBundle, "'" + input.name +
                                       "' of the portable graphs has an unknown shape; convert the model "
                                       "again");
    }
    TANDEM_ASSIGN_OR_RETURN(auto tensor, litert::HostTensor::create(library, input));
    cache->infos_.push_back(input);
    cache->tensors_.push_back(std::move(tensor));
  }
  return cache;
}

litert::RtTensorBuffer PortableCache::find(const std::string& name) const {
  const auto found = std::find_if(infos_.begin(), infos_.end(), [&](const auto& info) { return info.name == name; });
  return found == infos_.end() ? nullptr : tensors_[static_cast<std::size_t>(found - infos_.begin())].buffer();
}

uint64_t PortableCache::bytes() const {
  uint64_t total = 0;
  for (const auto& tensor : tensors_) total += tensor.bytes();
  return total;
}

uint64_t PortableCache::used_bytes() const {
  double share = 0;  // of the context
  for (std::size_t i = 0; i < infos_.size(); ++i) {
    const auto shape = infos_[i].shape();
    const bool keys = infos_[i].name.starts_with("kv_cache_k");
    share = std::max(share, static_cast<double>(high_water_) / static_cast<double>(shape[keys ? 2 : 3]));
  }
  return static_cast<uint64_t>(static_cast<double>(bytes()) * std::min(1.0, share));
}

Result<std::unique_ptr<TargetCache>> PortableCache::clone() const {
  auto copy = std::make_unique<PortableCache>();
  copy->library_ = library_;
  copy->infos_ = infos_;
  copy->high_water_ = high_water_;
  for (std::size_t i = 0; i < infos_.size(); ++i) {
    TANDEM_ASSIGN_OR_RETURN(auto tensor, litert::HostTensor::create(library_, infos_[i]));
    // Pieces of [.., context, D] for keys, of [.., D, context] for values; the rest was never written and stays
    // uncommitted.
    const std::vector<int64_t> shape = infos_[i].shape();
    const bool keys = infos_[i].name.starts_with("kv_cache_k");
    const int64_t context = keys ? shape[2] : shape[3], width = keys ? shape[3] : 1;
    const auto used = static_cast<std::size_t>(std::min(high_water_, context) * width) * sizeof(float);
    const int64_t stride = context * width, pieces = infos_[i].elements() / stride;
    for (int64_t piece = 0; used > 0 && piece < pieces; ++piece) {
      std::memcpy(tensor.data<float>() + piece * stride, tensors_[i].data<float>() + piece * stride, used);
    }
    copy->tensors_.push_back(std::move(tensor));
  }
  return std::unique_ptr<TargetCache>(std::move(copy));
}

std::vector<PageUse> PortableCache::pages() const {
  std::vector<PageUse> all;
  for (const auto& tensor : tensors_) all.push_back({&tensor, tensor.bytes()});
  return all;
}

}  // namespace tandem
