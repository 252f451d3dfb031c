#include "engine/engine.h"

#include <chrono>
#include <mutex>

#include "base/cpu.h"
#include "engine/session.h"
#include "model/fast_target.h"
#include "model/portable_target.h"

namespace tandem {
namespace {

constexpr const char* kModelSection = "tf_lite_prefill_decode";
constexpr const char* kTokenizerSection = "tandem_tokenizer";

// The library wants environments and models created one at a time.
std::mutex& creation_mutex() {
  static std::mutex mutex;
  return mutex;
}

}  // namespace

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

  TANDEM_ASSIGN_OR_RETURN(auto words, Tokenizer::from_digest(bundle.section(kTokenizerSection)));
  engine->tokenizer_ = std::make_unique<Tokenizer>(std::move(words));

  TANDEM_ASSIGN_OR_RETURN(const auto library, litert::Library::open(options.library_path));
  const std::lock_guard lock(creation_mutex());
  TANDEM_ASSIGN_OR_RETURN(engine->environment_, litert::create_environment(library));
  const SectionInfo* section = bundle.find(kModelSection);
  if (section == nullptr) {
    return Status(Code::kBundle, "'" + path + "' has no section '" + kModelSection + "'; convert the model again");
  }
  TANDEM_ASSIGN_OR_RETURN(auto model,
                          litert::Model::from_fd(engine->environment_, bundle.fd(), section->offset, section->bytes));
  engine->model_ = std::make_unique<litert::Model>(std::move(model));

  const std::string cache_name = bundle.hash().substr(0, 16) + "-" + cpu_name() + "-" + library->identity();
  TANDEM_ASSIGN_OR_RETURN(auto cache,
                          litert::WeightCache::prepare(options.cache_dir, cache_name, section->bytes * 5 / 4));
  engine->weight_cache_ = std::make_unique<litert::WeightCache>(std::move(cache));
  engine->warm_start_ = engine->weight_cache_->warm();

  litert::CpuOptions cpu;
  cpu.num_threads = engine->num_threads_;
  cpu.weight_cache_path = engine->weight_cache_->path();
  cpu.weight_cache_fd = engine->weight_cache_->fd();
  TANDEM_RETURN_IF_ERROR(engine->create_target(options, cpu));
  engine->weight_cache_->commit();
  engine->load_seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return engine;
}

Status Engine::create_target(const EngineOptions& options, const litert::CpuOptions& cpu) {
  if (options.kv_dtype != "f32" && options.kv_dtype != "f16") {
    return {Code::kInvalidRequest, "kv_dtype is '" + options.kv_dtype + "'; give 'f16' or 'f32'"};
  }
  if (options.graph != "auto" && options.graph != "fast" && options.graph != "portable") {
    return {Code::kInvalidRequest, "graph is '" + options.graph + "'; give 'auto', 'fast' or 'portable'"};
  }
  const bool has_fast = FastTarget::supports(*model_);
  if (options.graph == "fast" && !has_fast) {
    return {Code::kBundle, "'" + bundle_.path() + "' has no fast graphs; convert the model again"};
  }
  fast_ = has_fast && options.graph != "portable";
  // The portable graphs have their context built in; the fast ones grow with the cache.
  const Manifest& manifest = bundle_.manifest();
  const int64_t limit = fast_ ? manifest.model.max_context : manifest.context;
  if (options.max_context < 0 || options.max_context > limit) {
    return {Code::kInvalidRequest, "max_context is " + std::to_string(options.max_context) + "; '" + bundle_.path() +
                                       "' allows at most " + std::to_string(limit) + " with these graphs"};
  }
  max_context_ = options.max_context > 0 ? options.max_context : manifest.context;
  if (fast_) {
    kv_dtype_ = options.kv_dtype;
    const KvType type = kv_dtype_ == "f32" ? KvType::kF32 : KvType::kF16;
    TANDEM_ASSIGN_OR_RETURN(
        target_, FastTarget::create(environment_, *model_, bundle_.manifest().model, max_context_, type, cpu));
  } else {
    kv_dtype_ = "f32";
    TANDEM_ASSIGN_OR_RETURN(target_, PortableTarget::create(environment_, *model_, cpu));
  }
  return {};
}

Result<std::unique_ptr<Session>> Engine::new_session() {
  TANDEM_ASSIGN_OR_RETURN(auto cache, target_->new_cache());
  return std::make_unique<Session>(shared_from_this(), std::move(cache));
}

}  // namespace tandem
