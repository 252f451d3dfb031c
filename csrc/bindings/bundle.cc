#include <pybind11/stl.h>

#include "bindings/module.h"
#include "bundle/inspect.h"
#include "bundle/reader.h"
#include "bundle/verify.h"

namespace py = pybind11;

namespace tandem::bindings {

void init_bundle(py::module_& module) {
  module.def(
      "inspect", [](const std::string& path) { return inspect(take(Bundle::open(path))); }, py::arg("path"),
      py::call_guard<py::gil_scoped_release>());
  module.def(
      "verify", [](const std::string& path) { return take(verify(take(Bundle::open(path)))); }, py::arg("path"),
      py::call_guard<py::gil_scoped_release>());
}

}  // namespace tandem::bindings
