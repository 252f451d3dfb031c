// What an engine and one session on it will take, estimated before anything is loaded: a model that does not fit is
// refused instead of swapping. Calibrated against measured resident memory (bench/README.md says how to repeat that).
// Depends on base, bundle, kv.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "bundle/reader.h"
#include "kernels/kv_view.h"

namespace tandem {

// What the estimate depends on, but for the context.
struct MemoryInputs {
  std::string path;  // for messages
  ModelSpec model;
  std::string quantization;
  uint64_t weight_bytes = 0;   // our packed weights, or the model's section: XNNPACK's packed copy is as large
  uint64_t drafter_bytes = 0;  // the drafter's, likewise
  std::vector<std::string> signatures;
  bool fast = true;
  bool native = false;            // the layers run without a graph
  uint64_t flatbuffer_bytes = 0;  // of the model, without its weights; only where native
  KvType kv_type = KvType::kF16;
  int64_t max_context = 0;    // that these graphs allow
  uint64_t prefix_bytes = 0;  // budget of the prefix cache
};

// Bytes by part. File-mapped weights count: decoding touches all of them for every token.
struct MemoryPlan {
  int64_t context = 0;
  uint64_t weights = 0;
  uint64_t drafter = 0;
  uint64_t graphs = 0;       // LiteRT's copies of the graphs: their structure, scales for every signature that runs
  uint64_t cache = 0;        // of one session, full
  uint64_t activations = 0;  // of the largest step
  uint64_t runtime = 0;      // libraries and tokenizer
  uint64_t prefixes = 0;     // the prefix cache, full

  uint64_t total() const { return weights + drafter + graphs + cache + activations + runtime + prefixes; }
};

// "f32", "f16" or "int8"; kInvalidRequest for anything else.
Result<KvType> parse_kv_dtype(const std::string& name);

// `graph` is "fast", "portable" or "auto", as in EngineOptions; `drafter` says whether the bundle's drafter is loaded.
MemoryInputs memory_inputs(const Bundle& bundle, const std::string& graph, KvType kv_type, bool drafter);

MemoryPlan plan_memory(const MemoryInputs& inputs, int64_t context);

// The largest context whose plan fits into `available` bytes; 0 when none does.
int64_t largest_context(const MemoryInputs& inputs, uint64_t available);

// kOutOfMemory, with that context, when the plan does not fit.
Status check_memory(const MemoryInputs& inputs, int64_t context, uint64_t available);

}  // namespace tandem
