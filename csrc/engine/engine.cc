#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <mutex>

#include "base/cpu.h"
#include "base/memory.h"
#include "engine/session.h"
#include "model/fast_target.h"
#include "model/portable_target.h"

namespace tandem {
namespace {

constexpr const char* kModelSection = "tf_lite_prefill_decode";
constexpr const char* kDrafterSection = "tf_lite_mtp_drafter";
constexpr const char* kTokenizerSection = "tandem_tokenizer";

}  // namespace

uint64_t Engine::memory_for_caches() const {
  if (!gpu_) return available_memory();
  if (device_memory_ == 0) return std::numeric_limits<uint64_t>::max();
  const MemoryPlan plan = memory_plan();
  return device_memory_ - std::min(device_memory_, plan.total() - plan.cache);
}

std::mutex& Engine::creation_mutex() {
  static std::mutex mutex;
  return mutex;
}

Result<std::shared_ptr<Engine>> Engine::open(const std::string& path, const EngineOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  if (options.num_threads < 0) {
    return Status(Code::kInvalidRequest, "num_threads is " + std::to_string(options.num_threads) +
                                             "; give a positive number, or 0 for the physical cores");
  }
  TANDEM_ASSIGN_OR_RETURN(Bundle opened, Bundle::open(path));
  const std::shared_ptr<Engine> engine(new Engine(std::move(opened)));
  const Bundle& bundle = engine->bundle_;
  engine->num_threads_ = options.num_threads > 0 ? options.num_threads : physical_cores();

  TANDEM_ASSIGN_OR_RETURN(const auto digest, bundle.require(kTokenizerSection));
  TANDEM_ASSIGN_OR_RETURN(auto words, Tokenizer::from_digest(digest));
  engine->tokenizer_ = std::make_unique<Tokenizer>(std::move(words));

  engine->options_ = options;
  TANDEM_RETURN_IF_ERROR(bundle.require(kModelSection).status());
  const std::lock_guard lock(creation_mutex());
  TANDEM_RETURN_IF_ERROR(engine->load());
  TANDEM_RETURN_IF_ERROR(engine->create_prefixes(options));
  litert::CpuOptions cpu;
  cpu.num_threads = engine->num_threads_;
  engine->media_ = std::make_unique<MediaEncoder>(engine->bundle_, engine->environment_, creation_mutex(), cpu,
                                                  options.cache_dir, engine->cache_name_);
  engine->scheduler_ = std::make_unique<Scheduler>(*engine->target_);
  // Weights that are mapped from the cache folder; those in memory are not among what is available.
  uint64_t mapped = 0;
  if (engine->weight_cache_ != nullptr && !engine->weight_cache_->path().empty())
    mapped += engine->memory_plan_.weights;
  if (engine->drafter_cache_ != nullptr && !engine->drafter_cache_->path().empty())
    mapped += engine->memory_plan_.drafter;
  engine->admission_ =
      std::make_unique<Admission>(path, mapped, [made = engine.get()] { return made->memory_for_caches(); });
  engine->load_seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return engine;
}

Status Engine::load_cpu_model() {
  TANDEM_ASSIGN_OR_RETURN(const auto library, litert::Library::open(options_.library_path));
  return load_model(*library, litert::create_environment(library));
}

Status Engine::load_model(const litert::Library& library, Result<litert::Environment> environment) {
  cache_name_ = bundle_.hash().substr(0, 16) + "-" + cpu_name() + "-" + library.identity();
  TANDEM_ASSIGN_OR_RETURN(environment_, std::move(environment));
  const SectionInfo* section = bundle_.find(kModelSection);
  TANDEM_ASSIGN_OR_RETURN(auto model,
                          litert::Model::from_fd(environment_, bundle_.fd(), section->offset, section->bytes));
  model_ = std::make_unique<litert::Model>(std::move(model));
  return {};
}

Status Engine::load_cpu() {
  TANDEM_RETURN_IF_ERROR(plan_cpu(options_));
  litert::CpuOptions cpu;
  cpu.num_threads = num_threads_;
  TANDEM_ASSIGN_OR_RETURN(const bool native, create_native_target(cpu));
  if (!native) TANDEM_RETURN_IF_ERROR(create_graph_target(cpu));
  TANDEM_RETURN_IF_ERROR(create_drafter(options_, cpu, cache_name_));
  gpu_ = false;
  active_ = target_.get();
  draft_ = drafter_.get();
  return {};
}

Status Engine::plan_cpu(const EngineOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(kv_type_, parse_kv_dtype(options.kv_dtype));
  if (options.graph != "auto" && options.graph != "fast" && options.graph != "portable") {
    return {Code::kInvalidRequest, "graph is '" + options.graph + "'; give 'auto', 'fast' or 'portable'"};
  }
  const bool has_fast = FastTarget::supports(*model_);
  if (options.graph == "fast" && !has_fast) {
    return {Code::kBundle, "'" + bundle_.path() + "' has no fast graphs; convert the model again"};
  }
  fast_ = has_fast && options.graph != "portable";
  kv_dtype_ = fast_ ? options.kv_dtype : "f32";
  // The portable graphs have their context built in; the fast ones grow with the cache.
  const Manifest& manifest = bundle_.manifest();
  const int64_t limit = fast_ ? manifest.model.max_context : manifest.context;
  if (options.max_context < 0 || options.max_context > limit) {
    return {Code::kInvalidRequest, "max_context is " + std::to_string(options.max_context) + "; '" + bundle_.path() +
                                       "' allows at most " + std::to_string(limit) + " with these graphs"};
  }
  max_context_ = options.max_context > 0 ? options.max_context : manifest.context;
  MemoryInputs memory = memory_inputs(bundle_, options.graph, kv_type_, options.drafter != "off");
  memory.prefix_bytes = options.prefix_cache_bytes;
  memory_plan_ = plan_memory(memory, max_context_);
  return check_memory(memory, max_context_, available_memory());
}

Result<bool> Engine::create_native_target(const litert::CpuOptions& cpu) {
  const std::span<const std::byte> section = bundle_.section(kWeightTable), model = bundle_.section(kModelSection);
  const ModelSpec& spec = bundle_.manifest().model;
  if (!fast_ || section.empty()) return false;
  TANDEM_ASSIGN_OR_RETURN(const WeightTable table, read_weight_table(section, spec, model.size()));
  if (!NativeStep::suits(table)) return false;

  const uint64_t bytes = PackedWeights::most_bytes(table);
  TANDEM_ASSIGN_OR_RETURN(auto cache, litert::WeightCache::prepare(options_.cache_dir, cache_name_ + ".packed", bytes));
  weight_cache_ = std::make_unique<litert::WeightCache>(std::move(cache));
  warm_start_ = weight_cache_->warm();
  const WeightSource source{table, bundle_.file(), bundle_.find(kModelSection)->offset, model};
  TANDEM_RETURN_IF_ERROR(weight_cache_->fill(bytes, [&](int fd) {
    ThreadPool pool(num_threads_);
    return PackedWeights::make(source, pool, fd);
  }));
  TANDEM_ASSIGN_OR_RETURN(auto packed, PackedWeights::open(weight_cache_->path(), weight_cache_->fd()));
  TANDEM_ASSIGN_OR_RETURN(target_,
                          FastTarget::create(environment_, *model_, spec, FastTarget::Weights{table, std::move(packed)},
                                             max_context_, kv_type_, cpu));
  return true;
}

Status Engine::create_graph_target(const litert::CpuOptions& cpu) {
  const SectionInfo* section = bundle_.find(kModelSection);
  TANDEM_ASSIGN_OR_RETURN(
      auto cache, litert::WeightCache::prepare(options_.cache_dir, cache_name_ + ".xnnpack", section->bytes * 5 / 4));
  weight_cache_ = std::make_unique<litert::WeightCache>(std::move(cache));
  warm_start_ = weight_cache_->warm();
  return weight_cache_->compile([&]() -> Status {
    target_.reset();
    litert::CpuOptions own = cpu;
    own.weight_cache_path = weight_cache_->path();
    own.weight_cache_fd = weight_cache_->fd();
    const ModelSpec& spec = bundle_.manifest().model;
    if (fast_) {
      TANDEM_ASSIGN_OR_RETURN(target_,
                              FastTarget::create(environment_, *model_, spec, {}, max_context_, kv_type_, own));
    } else {
      TANDEM_ASSIGN_OR_RETURN(target_, PortableTarget::create(environment_, *model_, spec.hidden_size, own));
    }
    return {};
  });
}

Status Engine::create_prefixes(const EngineOptions& options) {
  if (options.prefix_cache_bytes == 0) {
    if (options.prefix_cache_dir.empty()) return {};
    return {Code::kInvalidRequest,
            "prefix_cache_dir is '" + options.prefix_cache_dir + "' but prefix_cache is 0 bytes; give it a budget"};
  }
  if (!fast_ && !gpu_ && !options.prefix_cache_dir.empty()) {
    return {Code::kInvalidRequest,
            "prefix_cache_dir needs the fast graphs; leave graph at 'auto', or keep prefixes in memory alone"};
  }
  // The context decides how the sliding layers are laid out.
  const std::string name =
      bundle_.hash().substr(0, 16) + "-" + kv_dtype_ + "-" + std::to_string(max_context_) + (gpu_ ? "-gpu" : "");
  TANDEM_ASSIGN_OR_RETURN(
      prefixes_, PrefixStore::open(*target_, digest(), options.prefix_cache_bytes, options.prefix_cache_dir, name));
  kept_ = prefixes_.get();
  return {};
}

Sha256Digest Engine::digest() const { return sha256(std::as_bytes(std::span(bundle_.manifest_text()))); }

Status Engine::create_drafter(const EngineOptions& options, const litert::CpuOptions& cpu,
                              const std::string& cache_name) {
  if (options.drafter != "auto" && options.drafter != "on" && options.drafter != "off") {
    return {Code::kInvalidRequest, "drafter is '" + options.drafter + "'; give 'auto', 'on' or 'off'"};
  }
  if (options.drafter == "on" && !fast_) {
    return {Code::kInvalidRequest, "drafter='on' needs the fast graphs; leave graph at 'auto', or use drafter='off'"};
  }
  drafting_ = fast_ ? options.drafter : "off";
  const SectionInfo* section = bundle_.find(kDrafterSection);
  if (drafting_ == "off" || section == nullptr || !bundle_.manifest().drafter) return {};
  TANDEM_ASSIGN_OR_RETURN(auto model,
                          litert::Model::from_fd(environment_, bundle_.fd(), section->offset, section->bytes));
  drafter_model_ = std::make_unique<litert::Model>(std::move(model));
  TANDEM_ASSIGN_OR_RETURN(auto cache, litert::WeightCache::prepare(options.cache_dir, cache_name + "-drafter.xnnpack",
                                                                   section->bytes * 5 / 4));
  drafter_cache_ = std::make_unique<litert::WeightCache>(std::move(cache));
  return drafter_cache_->compile([&]() -> Status {
    drafter_.reset();
    litert::CpuOptions own = cpu;
    own.weight_cache_path = drafter_cache_->path();
    own.weight_cache_fd = drafter_cache_->fd();
    TANDEM_ASSIGN_OR_RETURN(drafter_, Drafter::create(environment_, *drafter_model_, *bundle_.manifest().drafter,
                                                      static_cast<FastTarget&>(*target_), own));
    return {};
  });
}

bool Engine::native_steps() const {
  const std::lock_guard lock(backend_mutex_);
  return !gpu_ && fast_ && static_cast<const FastTarget&>(*target_).native();
}

Stats Engine::stats() const {
  const Scheduler::Counters steps = scheduler_->counters();
  const std::lock_guard lock(stats_mutex_);
  Stats all = stats_;
  all.steps = steps.steps;
  all.step_rows = steps.rows;
  all.batch_sizes = steps.batch_sizes;
  return all;
}

void Engine::add_stats(const Stats& after, const Stats& before) {
  const std::lock_guard lock(stats_mutex_);
  add_difference(stats_, after, before);
}

Result<SoftTokens> Engine::counted(Result<SoftTokens> tokens, bool reused) {
  if (tokens.ok()) {
    const std::lock_guard lock(stats_mutex_);
    ++(reused ? stats_.media_reused : stats_.media_embedded);
  }
  return tokens;
}

Result<SoftTokens> Engine::embed_image(const uint8_t* rgb, int64_t width, int64_t height, int64_t row_stride,
                                       int max_soft_tokens, bool video) {
  bool reused = false;
  Result<SoftTokens> tokens = media_->image(rgb, width, height, row_stride, max_soft_tokens, video, &reused);
  return counted(std::move(tokens), reused);
}

Result<SoftTokens> Engine::embed_audio(std::span<const float> mono16k) {
  bool reused = false;
  Result<SoftTokens> tokens = media_->audio(mono16k, &reused);
  return counted(std::move(tokens), reused);
}

int32_t Engine::placeholder(MediaKind kind) const {
  const MediaSpec& media = bundle_.manifest().media;
  if (kind == MediaKind::kAudio) return media.audio ? media.audio->token : -1;
  if (!media.image) return -1;
  return kind == MediaKind::kImage ? media.image->token : media.image->video_token;
}

bool Engine::is_placeholder(int32_t id) const {
  return id == placeholder(MediaKind::kImage) || id == placeholder(MediaKind::kVideo) ||
         id == placeholder(MediaKind::kAudio);
}

Result<std::unique_ptr<Session>> Engine::new_session() {
  Target& target = this->target();
  TANDEM_ASSIGN_OR_RETURN(auto cache, target.new_cache());
  TANDEM_ASSIGN_OR_RETURN(auto ticket, admit(cache->bytes()));
  return std::make_unique<Session>(shared_from_this(), target, std::move(cache), std::move(ticket));
}

Result<std::unique_ptr<Session>> Engine::restore(const std::string& path) {
  return Session::restore(shared_from_this(), path);
}

}  // namespace tandem
