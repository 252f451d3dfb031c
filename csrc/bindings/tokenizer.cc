#include "tokenizer/tokenizer.h"

#include <pybind11/stl.h>

#include "bindings/module.h"
#include "bundle/reader.h"

namespace py = pybind11;

namespace tandem::bindings {

void init_tokenizer(py::module_& module) {
  py::class_<Tokenizer, std::shared_ptr<Tokenizer>>(module, "Tokenizer")
      .def_static(
          "from_digest",
          [](std::string_view digest) { return take(Tokenizer::from_digest(std::as_bytes(std::span(digest)))); },
          py::arg("digest"))
      .def_property_readonly("vocab_size", &Tokenizer::vocab_size)
      .def(
          "encode",
          [](const Tokenizer& tokenizer, const std::string& text, bool add_bos, bool parse_special) {
            return tokenizer.encode(text, add_bos, parse_special);
          },
          py::arg("text"), py::arg("add_bos") = false, py::arg("parse_special") = false,
          py::call_guard<py::gil_scoped_release>())
      .def(
          "decode",
          [](const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special) {
            return tokenizer.decode(ids, skip_special);
          },
          py::arg("ids"), py::arg("skip_special") = false, py::call_guard<py::gil_scoped_release>())
      .def("is_special", &Tokenizer::is_special, py::arg("id"))
      .def_property_readonly("bos_id", &Tokenizer::bos_id)
      .def_property_readonly("eos_id", &Tokenizer::eos_id)
      .def_property_readonly("pad_id", &Tokenizer::pad_id);

  module.def(
      "open_tokenizer",
      [](const std::string& path) {
        const Bundle bundle = take(Bundle::open(path));
        return take(Tokenizer::from_digest(take(bundle.require("tandem_tokenizer"))));
      },
      py::arg("path"), py::call_guard<py::gil_scoped_release>());
}

}  // namespace tandem::bindings
