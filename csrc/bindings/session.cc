#include "engine/session.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings/module.h"

namespace py = pybind11;

namespace tandem::bindings {
namespace {

py::array_t<float> logits(Session& session, const std::vector<int32_t>& ids) {
  py::array_t<float> out(
      {static_cast<py::ssize_t>(ids.size()), static_cast<py::ssize_t>(session.engine().target().vocab_size())});
  float* data = out.mutable_data();
  {
    const py::gil_scoped_release nogil;
    check(session.logits(ids, data));
  }
  return out;
}

}  // namespace

py::dict stats_dict(const Stats& stats) {
  py::dict out;
  out["prefill_tokens"] = stats.prefill_tokens;
  out["prefill_seconds"] = stats.prefill_seconds;
  out["decode_tokens"] = stats.decode_tokens;
  out["decode_seconds"] = stats.decode_seconds;
  out["sample_seconds"] = stats.sample_seconds;
  out["time_to_first_token"] = stats.time_to_first_token;
  out["verify_steps"] = stats.verify_steps;
  out["drafted"] = stats.drafted;
  out["accepted"] = stats.accepted;
  out["accepted_by_position"] = stats.accepted_by_position;
  out["depths"] = stats.depths;
  out["draft_seconds"] = stats.draft_seconds;
  out["verify_seconds"] = stats.verify_seconds;
  return out;
}

void init_session(py::module_& module) {
  py::class_<SamplingParams>(module, "SamplingParams")
      .def(py::init<>())
      .def_readwrite("temperature", &SamplingParams::temperature)
      .def_readwrite("top_k", &SamplingParams::top_k)
      .def_readwrite("top_p", &SamplingParams::top_p)
      .def_readwrite("min_p", &SamplingParams::min_p)
      .def_readwrite("repetition_penalty", &SamplingParams::repetition_penalty)
      .def_readwrite("presence_penalty", &SamplingParams::presence_penalty)
      .def_readwrite("frequency_penalty", &SamplingParams::frequency_penalty)
      .def_readwrite("seed", &SamplingParams::seed)
      .def_readwrite("max_tokens", &SamplingParams::max_tokens)
      .def_readwrite("logprobs", &SamplingParams::logprobs)
      .def_readwrite("stop_ids", &SamplingParams::stop_ids)
      .def_readwrite("stop_strings", &SamplingParams::stop_strings)
      .def_readwrite("suppress_ids", &SamplingParams::suppress_ids)
      .def_readwrite("drafter", &SamplingParams::drafter)
      .def_readwrite("draft_tokens", &SamplingParams::draft_tokens)
      .def_readwrite("simulate_acceptance", &SamplingParams::simulate_acceptance);

  py::class_<Token>(module, "Token")
      .def_readonly("id", &Token::id)
      .def_readonly("text", &Token::text)
      .def_readonly("logprob", &Token::logprob)
      .def_readonly("from_draft", &Token::from_draft);

  py::class_<Session>(module, "Session")
      .def_property_readonly("position", &Session::position)
      .def(
          "prefill", [](Session& session, const std::vector<int32_t>& ids) { check(session.prefill(ids)); },
          py::arg("ids"), py::call_guard<py::gil_scoped_release>())
      .def("logits", &logits, py::arg("ids"))
      .def(
          "rewind", [](Session& session, int64_t position) { check(session.rewind(position)); }, py::arg("position"))
      .def(
          "generate",
          [](Session& session, const SamplingParams& params) { return take(Generation::create(session, params)); },
          py::arg("params"), py::keep_alive<0, 1>())
      .def(
          "draft",
          [](Session& session, int count) {
            std::vector<int32_t> ids;
            check(session.draft(count, ids));
            return ids;
          },
          py::arg("count"), py::call_guard<py::gil_scoped_release>())
      .def("cancel", &Session::cancel)
      .def_property_readonly("cache_bytes", &Session::cache_bytes)
      .def("stats", [](const Session& session) { return stats_dict(session.stats()); });

  py::class_<Generation>(module, "Generation")
      .def(
          "next", [](Generation& generation) { return take(generation.next()); },
          py::call_guard<py::gil_scoped_release>())
      .def_property_readonly(
          "finish_reason", [](const Generation& generation) { return finish_reason_name(generation.finish_reason()); });
}

}  // namespace tandem::bindings
