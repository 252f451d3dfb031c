// Keys and values of the portable graphs' cache tensors (K [1,Hkv,context,D], V [1,Hkv,D,context], float32) as pages in
// this process's memory: the form in which a sequence is kept or saved when its tensors are elsewhere. All layers keep
// every position, as those tensors do. Depends on kv and litert.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kv/sequence_cache.h"
#include "litert/handles.h"

namespace tandem {

// An empty cache for the layers of these tensors, `kv_cache_k_N` and `kv_cache_v_N` for every layer N. kBundle when
// they are not that.
Result<std::unique_ptr<SequenceCache>> portable_pages(const std::vector<litert::TensorInfo>& tensors);

// Positions below `count` of one tensor, between its values and the pages, which must have been prepared that far.
void tensor_to_pages(const litert::TensorInfo& tensor, const float* values, int64_t count, SequenceCache& pages);
void pages_to_tensor(const SequenceCache& pages, const litert::TensorInfo& tensor, int64_t count, float* values);

}  // namespace tandem
