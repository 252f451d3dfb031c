// tandem.h and tandem.hpp without a model: what they refuse, and how they say so. With a model: test_capi*.py.
#include <string>
#include <thread>

#include "check.h"
#include "tandem/tandem.hpp"

namespace {

template <class Function>
tandem_status thrown(const Function& function, std::string* message = nullptr) {
  try {
    function();
  } catch (const tandem::Error& error) {
    if (message != nullptr) *message = error.what();
    return error.status();
  }
  return TANDEM_OK;
}

TEST(a_bundle_that_is_not_there) {
  std::string message;
  CHECK_EQ(thrown([] { tandem::Engine("no/such.litertlm"); }, &message), TANDEM_BUNDLE);
  CHECK(message.find("no/such.litertlm") != std::string::npos);
}

TEST(options_are_checked_before_anything_is_opened) {
  tandem_engine_options options{};
  options.num_threads = -1;
  CHECK_EQ(thrown([&] { tandem::Engine("no/such.litertlm", options); }), TANDEM_INVALID_REQUEST);
  tandem_engine* engine = reinterpret_cast<tandem_engine*>(1);
  options = {};
  CHECK_EQ(tandem_engine_open("no/such.litertlm", &options, &engine), TANDEM_INVALID_REQUEST);  // size 0
  CHECK(engine == nullptr);
}

TEST(objects_without_a_handle) {
  tandem::Engine engine;
  tandem::Session session;
  tandem::Session moved = std::move(session);
  CHECK_EQ(thrown([&] { engine.info(); }), TANDEM_BAD_HANDLE);
  CHECK_EQ(thrown([&] { engine.session(); }), TANDEM_BAD_HANDLE);
  CHECK_EQ(thrown([&] { engine.encode("a"); }), TANDEM_BAD_HANDLE);
  CHECK_EQ(thrown([&] { moved.prefill({1}); }), TANDEM_BAD_HANDLE);
  CHECK_EQ(thrown([&] { moved.prefill_image({}); }), TANDEM_BAD_HANDLE);
  CHECK_EQ(thrown([&] { moved.prefill_audio({}); }), TANDEM_BAD_HANDLE);
  CHECK_EQ(thrown([&] { engine.embed_image({}); }), TANDEM_BAD_HANDLE);
  CHECK_EQ(thrown([&] { engine.embed_audio({}); }), TANDEM_BAD_HANDLE);
  CHECK_EQ(thrown([&] { moved.clone(); }), TANDEM_BAD_HANDLE);
  CHECK_EQ(thrown([&] { moved.save("x"); }), TANDEM_BAD_HANDLE);
  CHECK_EQ(thrown([&] { moved.tokens(); }), TANDEM_BAD_HANDLE);
  CHECK_EQ(thrown([&] { moved.rewind(0); }), TANDEM_BAD_HANDLE);
  CHECK_EQ(thrown([&] { moved.rewind(0, false); }), TANDEM_BAD_HANDLE);
  CHECK_EQ(thrown([&] { moved.set_prefill_timeout(1); }), TANDEM_BAD_HANDLE);
  CHECK_EQ(thrown([&] { engine.restore("x"); }), TANDEM_BAD_HANDLE);
  CHECK_EQ(thrown([&] { engine.prefix_stats(); }), TANDEM_BAD_HANDLE);
  CHECK_EQ(thrown([&] { engine.close(); }), TANDEM_BAD_HANDLE);
  CHECK_EQ(thrown([&] { moved.generate({}, [](const tandem::Token&) { return true; }); }), TANDEM_BAD_HANDLE);
}

TEST(what_would_make_a_session_leaves_no_handle) {
  auto* session = reinterpret_cast<tandem_session*>(1);
  CHECK_EQ(tandem_session_clone(nullptr, &session), TANDEM_BAD_HANDLE);
  CHECK(session == nullptr);
  session = reinterpret_cast<tandem_session*>(1);
  CHECK_EQ(tandem_session_restore(nullptr, "x", &session), TANDEM_BAD_HANDLE);
  CHECK(session == nullptr);
  CHECK_EQ(tandem_session_restore(nullptr, "x", nullptr), TANDEM_INVALID_REQUEST);
}

TEST(errors_belong_to_their_thread) {
  CHECK_EQ(tandem_engine_close(nullptr), TANDEM_BAD_HANDLE);
  const std::string mine = tandem_last_error();
  CHECK(!mine.empty());
  std::string others = "unset";
  std::thread([&] { others = tandem_last_error(); }).join();
  CHECK_EQ(others, "");
  CHECK_EQ(tandem_last_error(), mine);
}

TEST(every_status_has_a_name) {
  for (tandem_status status = TANDEM_OK; status <= TANDEM_TIMED_OUT; ++status) {
    CHECK(std::string(tandem_status_name(status)) != tandem_status_name(-1));
  }
  CHECK_EQ(std::string(tandem_status_name(TANDEM_TIMED_OUT + 1)), "unknown status");
}

}  // namespace
