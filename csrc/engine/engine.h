// Engine: one bundle, loaded once: tokenizer, compiled model, options. Sessions are made from it and keep it alive.
// Thread-safe. Depends on model, decode, tokenizer, bundle.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "base/status.h"
#include "bundle/reader.h"
#include "decode/depth_controller.h"
#include "engine/admission.h"
#include "engine/media_encoder.h"
#include "engine/memory_plan.h"
#include "engine/prefix_store.h"
#include "engine/scheduler.h"
#include "engine/stats.h"
#include "litert/gpu.h"
#include "litert/handles.h"
#include "litert/weight_cache.h"
#include "model/drafter.h"
#include "model/target.h"
#include "tokenizer/tokenizer.h"

namespace tandem {

class Session;

struct EngineOptions {
  std::string library_path;         // libLiteRt.so
  std::string gpu_library_path;     // LiteRT for the GPU, if it is another library; best one that has the GPU built in
  int num_threads = 0;              // 0: the physical cores that this process may use
  int64_t max_context = 0;          // tokens; 0: what the bundle was converted for
  std::string cache_dir;            // packed weights; empty: memory
  std::string kv_dtype = "f16";     // "f32", "f16" or "int8"; the portable graphs have f32 only
  std::string graph = "auto";       // "fast", "portable", or "auto": fast where the bundle has it
  std::string drafter = "auto";     // speculative decoding: "auto" where it pays, "on" always, "off"
  uint64_t prefix_cache_bytes = 0;  // of memory for beginnings that sessions share; 0: none are kept
  std::string prefix_cache_dir;     // their files, for other processes; empty: memory alone
  // "cpu"; "gpu", or "gpu:NAME" for one whose name contains NAME; "auto": the GPU where a hardware one passes a test
  // against the CPU. On the GPU the portable graphs run, with a float32 cache.
  std::string backend = "cpu";
  std::string fallback = "none";  // "cpu": where the GPU fails, at the start or later, the CPU goes on
};

class Engine : public std::enable_shared_from_this<Engine> {
 public:
  static Result<std::shared_ptr<Engine>> open(const std::string& path, const EngineOptions& options);

  // kOutOfMemory, with the numbers, when its cache might not fit beside those of the sessions that are open.
  Result<std::unique_ptr<Session>> new_session();
  // A session from a file of Session::save(). kInvalidRequest: of another bundle, kv_dtype or layout; kIo: damaged, or
  // of another version; kContextLength: longer than the context.
  Result<std::unique_ptr<Session>> restore(const std::string& path);
  // For whoever makes a session in another way: its cache may take `bytes`.
  Result<Admission::Ticket> admit(uint64_t bytes) { return admission_->admit(bytes, max_context_); }

  // Embeddings of an image (or of a frame of a video) and of sound, for Session::prefill. What was seen or heard lately
  // is remembered. Arguments and errors as MediaEncoder's.
  Result<SoftTokens> embed_image(const uint8_t* rgb, int64_t width, int64_t height, int64_t row_stride,
                                 int max_soft_tokens, bool video);
  Result<SoftTokens> embed_audio(std::span<const float> mono16k);
  // The id that stands for each soft token of this kind in a sequence; -1 when the model has no such input.
  int32_t placeholder(MediaKind kind) const;
  // Whether the id stands for a soft token of any kind.
  bool is_placeholder(int32_t id) const;

  const Bundle& bundle() const { return bundle_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  // Runs steps by the scheduler only; after fall_back() another one.
  Target& target() { return *active_; }
  Scheduler& scheduler() { return *scheduler_; }
  PrefixStore* prefixes() { return kept_; }  // nullptr when none are kept
  // Identifies the bundle in the files of sessions and prefixes.
  Sha256Digest digest() const;
  DraftModel* drafter() { return draft_; }  // nullptr when there is none
  DepthController& depth_controller() { return depth_controller_; }
  std::string drafting() const;  // the option `drafter`
  int num_threads() const { return num_threads_; }
  int64_t max_context() const { return max_context_; }
  MemoryPlan memory_plan() const;  // with one session at max_context
  double load_seconds() const { return load_seconds_; }
  bool fast() const { return fast_; }                                // runs the fast graphs
  bool native_steps() const;                                         // runs the layers without a graph
  int64_t step_rows() const { return active_.load()->step_rows(); }  // of all sessions that share a step; 1: none do
  bool on_gpu() const { return gpu_; }
  bool gpu_shares_weights() const { return gpu_shares_weights_; }  // they lie on the device once, whatever graphs run
  std::string backend_reason() const;                              // why this backend runs
  const litert::Transfers* transfers() const;                      // of the GPU; nullptr on the CPU
  // After `failed` broke with `why`: loads the bundle for the CPU, once, if that was asked for. Else returns `why`.
  Status fall_back(const Target& failed, const Status& why);
  std::string kv_dtype() const;
  bool warm_start() const { return warm_start_; }  // packed weights came from the cache folder
  Stats stats() const;                             // of all sessions, those that are gone included
  // Adds what a session counted between two readings.
  void add_stats(const Stats& after, const Stats& before);

 private:
  // The library wants environments and models created one at a time.
  static std::mutex& creation_mutex();
  // Bytes that caches of sessions may take together: of the system now, or of the GPU in all.
  uint64_t memory_for_caches() const;
  Status load();
  Status load_cpu_model();
  Status load_model(const litert::Library& library, Result<litert::Environment> environment);
  Status load_gpu();
  // Whether the GPU of `library` can hold the constants of this section once; kBundle where the section cannot run
  // there.
  Result<bool> shares_constants(const litert::Library& library, const char* section) const;
  Status create_gpu_target(const std::string& device);
  // Whether GPU and CPU agree on this bundle; the verdict is remembered in the cache folder.
  Status self_test(const std::string& device);
  Status load_cpu();
  // Checks the options and the memory; decides on graphs, context and cache.
  Status plan_cpu(const EngineOptions& options);
  // The target without graphs for the layers; false where CPU or bundle want them.
  Result<bool> create_native_target(const litert::CpuOptions& cpu);
  Status create_graph_target(const litert::CpuOptions& cpu);
  Result<SoftTokens> counted(Result<SoftTokens> tokens, bool reused);
  Status create_prefixes(const EngineOptions& options);
  Status create_drafter(const EngineOptions& options, const litert::CpuOptions& cpu, const std::string& cache_name);

  explicit Engine(Bundle bundle) : bundle_(std::move(bundle)) {}

  // In order of creation: each may point into those above it.
  Bundle bundle_;
  std::unique_ptr<Tokenizer> tokenizer_;
  litert::Environment environment_;
  std::unique_ptr<litert::Model> model_;
  std::unique_ptr<litert::WeightCache> weight_cache_;
  std::unique_ptr<Target> target_;
  std::unique_ptr<PrefixStore> prefixes_;
  std::unique_ptr<litert::Model> drafter_model_;
  std::unique_ptr<litert::WeightCache> drafter_cache_;
  std::unique_ptr<DraftModel> drafter_;
  std::unique_ptr<MediaEncoder> media_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<Admission> admission_;
  DepthController depth_controller_;
  mutable std::mutex stats_mutex_;
  Stats stats_;
  std::string drafting_;
  int num_threads_ = 1;
  int64_t max_context_ = 0;
  MemoryPlan memory_plan_;
  double load_seconds_ = 0;
  bool warm_start_ = false;
  std::atomic<bool> fast_ = false;
  KvType kv_type_ = KvType::kF16;  // of the CPU's target, where it is fast
  std::string kv_dtype_;

  EngineOptions options_;
  std::string cache_name_;
  std::atomic<Target*> active_ = nullptr;
  std::atomic<DraftModel*> draft_ = nullptr;
  std::atomic<PrefixStore*> kept_ = nullptr;  // those of the target that runs
  std::atomic<bool> gpu_ = false;
  std::atomic<bool> gpu_shares_weights_ = false;
  uint64_t device_memory_ = 0;  // of the GPU; 0: unknown
  // What ran on the GPU before the CPU took over: sessions may still hold its caches.
  std::unique_ptr<litert::Model> retired_drafter_model_;
  std::unique_ptr<Target> retired_;
  std::unique_ptr<DraftModel> retired_drafter_;
  mutable std::mutex backend_mutex_;  // of what fall_back() changes
  std::string backend_reason_;
};

}  // namespace tandem
