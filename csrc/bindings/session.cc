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

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

MediaKind kind_of(const std::string& name) {
  for (const MediaKind kind : {MediaKind::kImage, MediaKind::kVideo, MediaKind::kAudio}) {
    if (name == media_kind_name(kind)) return kind;
  }
  raise({Code::kInvalidRequest, "a media kind is 'image', 'video' or 'audio', not '" + name + "'"});
}

SoftTokens soft_tokens(const Floats& values, const std::string& kind, std::string hash) {
  if (values.ndim() != 2) raise({Code::kInvalidRequest, "embeddings must be float32 [rows, hidden size]"});
  auto copy = std::make_shared<std::vector<float>>(values.data(), values.data() + values.size());
  return {kind_of(kind), values.shape(0), std::move(copy), std::move(hash)};
}

// A read-only array [rows, hidden size] over the embeddings themselves, which it keeps alive.
py::array_t<float> array_of(const SoftTokens& tokens) {
  auto* held = new std::shared_ptr<const std::vector<float>>(tokens.values);
  const py::capsule owner(held, [](void* p) { delete static_cast<std::shared_ptr<const std::vector<float>>*>(p); });
  const auto width = static_cast<py::ssize_t>((*held)->size()) / std::max<py::ssize_t>(1, tokens.rows);
  py::array_t<float> array({static_cast<py::ssize_t>(tokens.rows), width}, (*held)->data(), owner);
  array.attr("setflags")(false);
  return array;
}

Deadline deadline(const std::optional<double>& timeout) { return timeout ? deadline_in(*timeout) : kNoDeadline; }

}  // namespace

py::dict stats_dict(const Stats& stats) {
  py::dict out;
  out["prefill_tokens"] = stats.prefill_tokens;
  out["reused_tokens"] = stats.reused_tokens;
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
  out["media_embedded"] = stats.media_embedded;
  out["media_reused"] = stats.media_reused;
  out["steps"] = stats.steps;
  out["step_rows"] = stats.step_rows;
  out["batch_sizes"] = stats.batch_sizes;
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
      .def_readwrite("pinned_tokens", &SamplingParams::pinned_tokens)
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

  py::class_<SoftTokens>(module, "SoftTokens")
      .def(py::init(&soft_tokens), py::arg("values"), py::arg("kind"), py::arg("hash") = "")
      .def_readonly("rows", &SoftTokens::rows)
      .def_property_readonly("kind", [](const SoftTokens& tokens) { return media_kind_name(tokens.kind); })
      .def_readonly("hash", &SoftTokens::hash)
      .def_property_readonly("values", &array_of);

  py::class_<Session>(module, "Session")
      .def_property_readonly("position", &Session::position)
      .def_property_readonly("prefilled", &Session::prefilled)
      .def(
          "prefill",
          [](Session& session, const std::vector<int32_t>& ids) {
            check(session.prefill(std::span<const int32_t>(ids)));
          },
          py::arg("ids"), py::call_guard<py::gil_scoped_release>())
      .def(
          "prefill_parts",
          [](Session& session, const std::vector<PromptPart>& parts, const std::optional<double>& timeout) {
            check(session.prefill(parts, deadline(timeout)));
          },
          py::arg("parts"), py::arg("timeout") = py::none(), py::call_guard<py::gil_scoped_release>())
      .def(
          "common_prefix",
          [](const Session& session, const std::vector<PromptPart>& parts) { return session.common_prefix(parts); },
          py::arg("parts"))
      .def("logits", &logits, py::arg("ids"))
      .def(
          "rewind", [](Session& session, int64_t position, bool refill) { check(session.rewind(position, refill)); },
          py::arg("position"), py::arg("refill") = true)
      .def_property_readonly("tokens", &Session::tokens)
      .def(
          "clone", [](Session& session) { return take(session.clone()); }, py::call_guard<py::gil_scoped_release>())
      .def(
          "save", [](Session& session, const std::string& path) { check(session.save(path)); }, py::arg("path"),
          py::call_guard<py::gil_scoped_release>())
      .def(
          "generate",
          [](Session& session, const SamplingParams& params, const std::optional<double>& timeout) {
            return take(Generation::create(session, params, deadline(timeout)));
          },
          py::arg("params"), py::arg("timeout") = py::none(), py::keep_alive<0, 1>())
      .def(
          "draft",
          [](Session& session, int count) {
            std::vector<int32_t> ids;
            double seconds = 0;
            check(session.draft(count, {}, ids, &seconds));
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
