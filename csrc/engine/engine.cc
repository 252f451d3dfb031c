#include "engine/engine.h"

#include <chrono>
#include <mutex>

#include "base/cpu.h"
#include "engine/session.h"

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
  TANDEM_ASSIGN_OR_RETURN(auto cache, litert::WeightCache::prepare(options.cache_dir, cache_name, section->bytes * 5 / 4));
  engine->weight_cache_ = std::make_unique<litert::WeightCache>(std::move(cache));
  engine->warm_start_ = engine->weight_cache_->warm();

  litert::CpuOptions cpu;
  cpu.num_threads = engine->num_threads_;
  cpu.weight_cache_path = engine->weight_cache_->path();
  cpu.weight_cache_fd = engine->weight_cache_->fd();
  TANDEM_ASSIGN_OR_RETURN(engine->target_, PortableTarget::create(engine->environment_, *engine->model_, cpu));
  engine->weight_cache_->commit();

  const int64_t context = engine->target_->context();
  if (options.max_context < 0 || options.max_context > context) {
    return Status(Code::kInvalidRequest, "max_context is " + std::to_string(options.max_context) + "; '" + path +
                                             "' was converted for at most " + std::to_string(context) +
                                             " (convert with a larger --context)");
  }
  engine->max_context_ = options.max_context > 0 ? options.max_context : context;
  engine->load_seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return engine;
}

Result<std::unique_ptr<Session>> Engine::new_session() {
  TANDEM_ASSIGN_OR_RETURN(auto cache, target_->new_cache());
  return std::make_unique<Session>(shared_from_this(), std::move(cache));
}

}  // namespace tandem
