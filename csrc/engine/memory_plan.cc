#include "engine/memory_plan.h"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "base/memory.h"
#include "bundle/signatures.h"
#include "kv/sequence_cache.h"
#include "model/native_step.h"
#include "model/weight_table.h"

namespace tandem {
namespace {

constexpr uint64_t kFloat = sizeof(float);
constexpr uint64_t kRuntimeBytes = uint64_t{64} << 20;
// Every signature's tensors carry their own copy of the per-channel scales (f32) and zero points (int64).
constexpr uint64_t kChannelBytes = 12;
// What LiteRT makes of a byte of flatbuffer, of all signatures, and the byte itself: 148 MB of the 12B shape's 13.1.
constexpr uint64_t kGraphFactor = 9;
// Live tensors of XNNPACK's widest moment, the gated MLP, in units of its width.
constexpr uint64_t kMlpTensors = 4;
// Score matrices of the portable attention that are alive together: masked, softmax.
constexpr uint64_t kScoreTensors = 2;

// The number behind `prefix` in a signature's name; 0 when it is another signature.
int64_t rows_of(std::string_view key, std::string_view prefix) {
  int64_t rows = 0;
  if (!key.starts_with(prefix)) return 0;
  const std::string_view digits = key.substr(prefix.size());
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), rows);
  return error == std::errc() && end == digits.data() + digits.size() ? rows : 0;
}

struct Rows {
  uint64_t body = 1, head = 1;                // of the largest step
  uint64_t body_graphs = 0, head_graphs = 0;  // signatures that hold the layers, the LM head
};

Rows count_rows(const MemoryInputs& inputs) {
  if (inputs.native) {  // lookups of embeddings are what is left of the graphs
    const auto lookups = std::count_if(inputs.signatures.begin(), inputs.signatures.end(),
                                       [](const std::string& key) { return rows_of(key, "tandem_embed_") > 0; });
    return {NativeStep::kFillRows, NativeStep::kStepRows, 0, static_cast<uint64_t>(lookups)};
  }
  Rows rows;
  const auto grow = [](uint64_t& value, int64_t found) { value = std::max(value, static_cast<uint64_t>(found)); };
  for (const std::string& key : inputs.signatures) {
    if (inputs.fast) {
      const int64_t body = std::max(rows_of(key, "tandem_body_"), rows_of(key, "tandem_fill_"));
      const int64_t head = rows_of(key, "tandem_head_");
      grow(rows.body, body);
      grow(rows.head, head);
      // Of large images only the graph is there before the first one comes.
      rows.body_graphs += body > 0 || key.starts_with("tandem_block_");
      rows.head_graphs += head > 0;
    } else {
      const int64_t prefill = std::max(rows_of(key, "prefill_"), rows_of(key, "embedded_prefill_"));
      grow(rows.body, prefill);
      rows.body_graphs += prefill > 0 || key == "decode";
      rows.head_graphs += key == "decode";
    }
  }
  return rows;
}

}  // namespace

Result<KvType> parse_kv_dtype(const std::string& name) {
  if (name == "f32") return KvType::kF32;
  if (name == "f16") return KvType::kF16;
  if (name == "int8") return KvType::kI8;
  return Status(Code::kInvalidRequest, "kv_dtype is '" + name + "'; give 'f16', 'f32' or 'int8'");
}

MemoryInputs memory_inputs(const Bundle& bundle, const std::string& graph, KvType kv_type, bool drafter) {
  const Manifest& manifest = bundle.manifest();
  MemoryInputs inputs;
  inputs.path = bundle.path();
  inputs.model = manifest.model;
  inputs.quantization = manifest.quantization;
  const auto bytes = [&](const char* name) {
    const SectionInfo* section = bundle.find(name);
    return section == nullptr ? 0 : section->bytes;
  };
  inputs.weight_bytes = bytes("tf_lite_prefill_decode");
  inputs.drafter_bytes = drafter ? bytes("tf_lite_mtp_drafter") : 0;
  inputs.signatures = signature_keys(bundle.section("tf_lite_prefill_decode"));
  const bool has_fast = std::any_of(inputs.signatures.begin(), inputs.signatures.end(),
                                    [](const std::string& key) { return rows_of(key, "tandem_body_") > 0; });
  inputs.fast = has_fast && graph != "portable";
  if (inputs.fast && bundle.find(kWeightTable) != nullptr) {
    const auto table = read_weight_table(bundle.section(kWeightTable), manifest.model, inputs.weight_bytes);
    inputs.native = table.ok() && NativeStep::suits(table.value());
    if (inputs.native) {
      inputs.weight_bytes = PackedWeights::expected_bytes(table.value());
      inputs.flatbuffer_bytes = table.value().embed.offset;  // where the weights begin
    }
  }
  inputs.kv_type = inputs.fast ? kv_type : KvType::kF32;
  inputs.max_context = inputs.fast ? manifest.model.max_context : manifest.context;
  return inputs;
}

MemoryPlan plan_memory(const MemoryInputs& inputs, int64_t context) {
  const ModelSpec& model = inputs.model;
  const Rows rows = count_rows(inputs);
  const auto hidden = static_cast<uint64_t>(model.hidden_size), mlp = static_cast<uint64_t>(model.intermediate_size);
  const auto vocab = static_cast<uint64_t>(model.vocab_size), heads = static_cast<uint64_t>(model.num_heads);
  const auto tokens = static_cast<uint64_t>(context);

  MemoryPlan plan;
  plan.context = context;
  plan.weights = inputs.weight_bytes;
  plan.drafter = inputs.drafter_bytes;
  plan.runtime = kRuntimeBytes;
  plan.prefixes = inputs.prefix_bytes;

  uint64_t channels = 0, widest_query = 0, widest_kv = 0, kv_values = 0;
  std::vector<CacheLayer> layers;
  for (const LayerSpec& layer : model.layers) {
    const uint64_t query = heads * static_cast<uint64_t>(layer.head_dim);
    const uint64_t kv = static_cast<uint64_t>(layer.kv_heads) * static_cast<uint64_t>(layer.head_dim);
    channels += query + kv * (layer.k_eq_v ? 1 : 2) + 2 * hidden + 2 * mlp;
    widest_query = std::max(widest_query, query);
    widest_kv = std::max(widest_kv, kv);
    kv_values += 2 * kv;
    layers.push_back({layer.kv_heads, layer.head_dim, layer.window});
  }
  // Scales of blocks lie in the weights' own buffers, and float weights have none.
  if (inputs.quantization.find("block") != std::string::npos) channels = 0;
  if (inputs.quantization != "f32") {
    plan.graphs = kChannelBytes * (channels * rows.body_graphs + vocab * rows.head_graphs);
  }
  plan.graphs += kGraphFactor * inputs.flatbuffer_bytes;

  plan.activations = kFloat * rows.head * vocab;
  if (inputs.native) {  // the tensors of NativeStep, the attention's queries, and a row's input in 8 bits
    plan.activations += rows.body * (kFloat * (3 * hidden + 3 * widest_query + 2 * widest_kv + mlp) + mlp);
  } else {
    plan.activations += kFloat * rows.body * (2 * hidden + kMlpTensors * mlp);
    if (inputs.fast) plan.activations += kFloat * rows.body * 2 * widest_query;
  }
  if (inputs.fast) {
    plan.cache = SequenceCache::reserved_bytes(layers, context, static_cast<int64_t>(rows.body), inputs.kv_type);
  } else {
    plan.activations += kFloat * rows.body * tokens * (kScoreTensors * heads + 1);
    plan.cache = kFloat * kv_values * tokens;
  }
  return plan;
}

int64_t largest_context(const MemoryInputs& inputs, uint64_t available) {
  int64_t fits = 0, beyond = inputs.max_context + 1;  // the plan grows with the context
  while (beyond - fits > 1) {
    const int64_t middle = fits + (beyond - fits) / 2;
    (plan_memory(inputs, middle).total() <= available ? fits : beyond) = middle;
  }
  return fits;
}

Status check_memory(const MemoryInputs& inputs, int64_t context, uint64_t available) {
  const uint64_t needed = plan_memory(inputs, context).total();
  if (needed <= available) return {};
  const std::string what = "'" + inputs.path + "' with a context of " + std::to_string(context) + " needs " +
                           gibibytes(needed) + " of memory but " + gibibytes(available) + " are available; ";
  const int64_t fits = largest_context(inputs, available);
  if (fits > 0) {
    return {Code::kOutOfMemory, what + "the largest context that fits is " + std::to_string(fits) +
                                    " (max_context), a smaller kv_dtype allows more"};
  }
  return {Code::kOutOfMemory, what + "no context fits: free memory, or convert with a smaller quantisation"};
}

}  // namespace tandem
