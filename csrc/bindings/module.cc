// The Python module tandem_lm._native: a thin face over the engine. Signatures are documented in _native.pyi.
#include "bindings/module.h"

namespace py = pybind11;

namespace tandem::bindings {
namespace {

// Leaked on purpose: exception types must outlive the interpreter's last use of them.
PyObject* native_error = nullptr;

}  // namespace

void raise(const Status& status) {
  const py::gil_scoped_acquire gil;
  // Messages may quote file names and the backend's words, which need not be UTF-8.
  const std::string& text = status.message();
  const auto message = py::reinterpret_steal<py::str>(
      PyUnicode_DecodeUTF8(text.data(), static_cast<py::ssize_t>(text.size()), "backslashreplace"));
  const py::tuple arguments = py::make_tuple(static_cast<int>(status.code()), message);
  PyErr_SetObject(native_error, arguments.ptr());
  throw py::error_already_set();
}

}  // namespace tandem::bindings

PYBIND11_MODULE(_native, module) {
  using namespace tandem::bindings;
  native_error = PyErr_NewException("tandem_lm._native.NativeError", PyExc_Exception, nullptr);
  module.attr("NativeError") = py::handle(native_error);
  init_bundle(module);
  init_tokenizer(module);
  init_engine(module);
  init_session(module);
  init_memory(module);
  init_media(module);
}
