#include "base/memory.h"

#include "bindings/module.h"
#include "bundle/reader.h"

namespace py = pybind11;

namespace tandem::bindings {

py::dict plan_dict(const MemoryPlan& plan) {
  py::dict parts;
  parts["weights"] = plan.weights;
  parts["drafter"] = plan.drafter;
  parts["graphs"] = plan.graphs;
  parts["cache"] = plan.cache;
  parts["activations"] = plan.activations;
  parts["runtime"] = plan.runtime;
  parts["prefixes"] = plan.prefixes;
  return parts;
}

void init_memory(py::module_& module) {
  module.def(
      "memory_plan",
      [](const std::string& path, int64_t context, const std::string& kv_dtype, const std::string& graph) {
        const Bundle bundle = take(Bundle::open(path));
        const MemoryInputs inputs = memory_inputs(bundle, graph, take(parse_kv_dtype(kv_dtype)), true);
        if (context < 0 || context > inputs.max_context) {
          raise({Code::kInvalidRequest, "context is " + std::to_string(context) + "; '" + path + "' allows at most " +
                                            std::to_string(inputs.max_context) + " with these graphs"});
        }
        const MemoryPlan plan = plan_memory(inputs, context > 0 ? context : bundle.manifest().context);
        const uint64_t available = available_memory();
        py::dict out;
        out["graph"] = inputs.fast ? "fast" : "portable";
        out["context"] = plan.context;
        out["kv_dtype"] = inputs.fast ? kv_dtype : "f32";
        out["parts"] = plan_dict(plan);
        out["total"] = plan.total();
        out["available"] = available;
        out["largest_context"] = largest_context(inputs, available);
        return out;
      },
      py::arg("path"), py::arg("context") = 0, py::arg("kv_dtype") = "f16", py::arg("graph") = "auto");
}

}  // namespace tandem::bindings
