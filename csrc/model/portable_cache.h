// The KV cache of one sequence in the layout of the portable graphs: per layer K [1,Hkv,context,D], V
// [1,Hkv,D,context], float32. The graphs update it in place: one buffer is bound as input and as output. Pages are
// committed by the operating system on first touch. Single owner. Depends on litert.
#pragma once

#include <algorithm>
#include <vector>

#include "litert/handles.h"
#include "model/target.h"

namespace tandem {

class PortableCache : public TargetCache {
 public:
  // One buffer per `kv_cache_*` input of `signature`, in its order.
  static Result<std::unique_ptr<PortableCache>> create(const std::shared_ptr<const litert::Library>& library,
                                                       const litert::Signature& signature);

  int64_t rewind(int64_t position) override { return position; }
  uint64_t bytes() const override;
  uint64_t used_bytes() const override;
  Result<std::unique_ptr<TargetCache>> clone() const override;  // a copy of what was written
  int64_t resume_from() const override { return 1; }
  std::vector<PageUse> pages() const override;

  // Must be called when positions up to `end` (exclusive) have been written.
  void written(int64_t end) { high_water_ = high_water_ > end ? high_water_ : end; }

  // The buffer for the tensor of this name; nullptr when there is none.
  litert::RtTensorBuffer find(const std::string& name) const;

 private:
  std::shared_ptr<const litert::Library> library_;
  std::vector<litert::TensorInfo> infos_;
  std::vector<litert::HostTensor> tensors_;
  int64_t high_water_ = 0;
};

// True for names of cache tensors.
bool is_kv_name(const std::string& name);

}  // namespace tandem
