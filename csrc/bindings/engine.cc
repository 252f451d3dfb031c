#include "engine/engine.h"

#include <pybind11/numpy.h>

#include "bindings/module.h"
#include "engine/session.h"
#include "litert/vulkan.h"

namespace py = pybind11;

namespace tandem::bindings {
namespace {

// None when the engine keeps no prefixes.
py::object prefix_stats(Engine& engine) {
  if (engine.prefixes() == nullptr) return py::none();
  const PrefixStore::Stats stats = engine.prefixes()->stats();
  py::dict out;
  out["lookups"] = stats.lookups;
  out["hits"] = stats.hits;
  out["disk_hits"] = stats.disk_hits;
  out["tokens_asked"] = stats.tokens_asked;
  out["tokens_reused"] = stats.tokens_reused;
  out["entries"] = stats.entries;
  out["evictions"] = stats.evictions;
  out["bytes"] = stats.bytes;
  out["budget"] = stats.budget;
  out["disk_entries"] = stats.disk_entries;
  out["disk_bytes"] = stats.disk_bytes;
  return out;
}

}  // namespace

void init_engine(py::module_& module) {
  py::class_<Engine, std::shared_ptr<Engine>>(module, "Engine")
      .def(py::init([](const std::string& path, const std::string& library, int num_threads, int64_t max_context,
                       const std::string& cache_dir, const std::string& kv_dtype, const std::string& graph,
                       const std::string& drafter, uint64_t prefix_cache_bytes, const std::string& prefix_cache_dir,
                       const std::string& backend, const std::string& fallback, const std::string& gpu_library) {
             const py::gil_scoped_release nogil;
             return take(Engine::open(path, {library, gpu_library, num_threads, max_context, cache_dir, kv_dtype, graph,
                                             drafter, prefix_cache_bytes, prefix_cache_dir, backend, fallback}));
           }),
           py::arg("path"), py::arg("library"), py::arg("num_threads") = 0, py::arg("max_context") = 0,
           py::arg("cache_dir") = "", py::arg("kv_dtype") = "f16", py::arg("graph") = "auto",
           py::arg("drafter") = "auto", py::arg("prefix_cache_bytes") = 0, py::arg("prefix_cache_dir") = "",
           py::arg("backend") = "cpu", py::arg("fallback") = "none", py::arg("gpu_library") = "")
      .def_property_readonly("tokenizer", &Engine::tokenizer, py::return_value_policy::reference_internal)
      .def("info",
           [](const Engine& engine) {
             py::dict info;
             info["manifest"] = engine.bundle().manifest_text();
             info["bundle_hash"] = engine.bundle().hash();
             info["num_threads"] = engine.num_threads();
             info["max_context"] = engine.max_context();
             info["load_seconds"] = engine.load_seconds();
             info["kv_dtype"] = engine.kv_dtype();
             info["graph"] = engine.fast() ? "fast" : "portable";
             info["step_rows"] = engine.step_rows();
             info["native_steps"] = engine.native_steps();
             info["has_drafter"] = engine.bundle().manifest().drafter.has_value();
             info["warm_start"] = engine.warm_start();
             info["memory"] = plan_dict(engine.memory_plan());
             info["backend"] = engine.on_gpu() ? "gpu" : "cpu";
             info["gpu_shares_weights"] = engine.on_gpu() && engine.gpu_shares_weights();
             info["backend_reason"] = engine.backend_reason();
             return info;
           })
      .def_property_readonly("on_gpu", &Engine::on_gpu)
      .def("transfers",
           [](const Engine& engine) -> py::object {
             const litert::Transfers* transfers = engine.transfers();
             if (transfers == nullptr) return py::none();
             py::dict out;
             out["runs"] = transfers->runs.load();
             out["uploads"] = transfers->uploads.load();
             out["upload_bytes"] = transfers->upload_bytes.load();
             out["downloads"] = transfers->downloads.load();
             out["download_bytes"] = transfers->download_bytes.load();
             return out;
           })
      .def("stats", [](const Engine& engine) { return stats_dict(engine.stats()); })
      .def(
          "embed_image",
          [](Engine& engine, const py::array_t<uint8_t, 0>& rgb, int max_soft_tokens, bool video) {
            if (rgb.ndim() != 3 || rgb.shape(2) != 3 || rgb.strides(2) != 1 || rgb.strides(1) != 3 ||
                rgb.strides(0) < 0) {
              raise({Code::kInvalidRequest, "an image must be uint8 [height, width, 3] with packed rows"});
            }
            const py::gil_scoped_release nogil;
            return take(
                engine.embed_image(rgb.data(), rgb.shape(1), rgb.shape(0), rgb.strides(0), max_soft_tokens, video));
          },
          py::arg("rgb").noconvert(), py::arg("max_soft_tokens") = 0, py::arg("video") = false)
      .def(
          "embed_audio",
          [](Engine& engine, const py::array_t<float, py::array::c_style | py::array::forcecast>& mono16k) {
            if (mono16k.ndim() != 1) raise({Code::kInvalidRequest, "sound must be float32 [samples], mono"});
            const py::gil_scoped_release nogil;
            return take(engine.embed_audio({mono16k.data(), static_cast<std::size_t>(mono16k.size())}));
          },
          py::arg("mono16k"))
      .def("placeholder",
           [](const Engine& engine, const SoftTokens& tokens) { return engine.placeholder(tokens.kind); })
      .def("session",
           [](Engine& engine) {
             const py::gil_scoped_release nogil;
             return take(engine.new_session());
           })
      .def(
          "restore",
          [](Engine& engine, const std::string& path) {
            const py::gil_scoped_release nogil;
            return take(engine.restore(path));
          },
          py::arg("path"))
      .def("prefix_stats", &prefix_stats)
      .def("write_prefixes", [](Engine& engine) {
        const py::gil_scoped_release nogil;
        if (engine.prefixes() != nullptr) check(engine.prefixes()->flush());
      });
  module.def("vulkan_devices", [] {
    py::list out;
    for (const litert::VulkanDevice& device : take(litert::vulkan_devices())) {
      py::dict one;
      one["name"] = device.name;
      one["kind"] = device.kind;
      one["memory_bytes"] = device.memory_bytes;
      out.append(one);
    }
    return out;
  });
}

}  // namespace tandem::bindings
