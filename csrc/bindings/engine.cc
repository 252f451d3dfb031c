#include "engine/engine.h"

#include "bindings/module.h"
#include "engine/session.h"

namespace py = pybind11;

namespace tandem::bindings {

void init_engine(py::module_& module) {
  py::class_<Engine, std::shared_ptr<Engine>>(module, "Engine")
      .def(py::init([](const std::string& path, const std::string& library, int num_threads, int64_t max_context,
                       const std::string& cache_dir, const std::string& kv_dtype, const std::string& graph,
                       const std::string& drafter) {
             const py::gil_scoped_release nogil;
             return take(Engine::open(path, {library, num_threads, max_context, cache_dir, kv_dtype, graph, drafter}));
           }),
           py::arg("path"), py::arg("library"), py::arg("num_threads") = 0, py::arg("max_context") = 0,
           py::arg("cache_dir") = "", py::arg("kv_dtype") = "f16", py::arg("graph") = "auto",
           py::arg("drafter") = "auto")
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
             info["has_drafter"] = engine.bundle().manifest().drafter.has_value();
             info["warm_start"] = engine.warm_start();
             info["memory"] = plan_dict(engine.memory_plan());
             return info;
           })
      .def("stats", [](const Engine& engine) { return stats_dict(engine.stats()); })
      .def("session", [](Engine& engine) {
        const py::gil_scoped_release nogil;
        return take(engine.new_session());
      });
}

}  // namespace tandem::bindings
