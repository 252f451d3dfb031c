// CPU features: the fastest set by default, TANDEM_ISA's names accepted, others refused.
#include <cstdlib>

#include "base/cpu_features.h"
#include "check.h"

using namespace tandem;

TEST(default_is_the_widest_that_pays) {
  const Isa widest = available_isas().back(), chosen = select_isa("").value();
  CHECK(chosen == widest || (chosen == Isa::kAvx512 && widest == Isa::kAvx512Bf16));
#if defined(__x86_64__)
  if (widest == Isa::kAvx512Bf16) CHECK((chosen == Isa::kAvx512) == bool(__builtin_cpu_is("intel")));
#endif
  CHECK(available_isas().front() == Isa::kBaseline);
}

TEST(every_available_name_is_accepted) {
  for (Isa isa : available_isas()) CHECK(select_isa(isa_name(isa)).value() == isa);
}

TEST(unknown_name_is_refused_with_the_choices) {
  const auto result = select_isa("mmx");
  CHECK(result.status().code() == Code::kInvalidRequest);
  CHECK(result.status().message().find("mmx") != std::string::npos);
  CHECK(result.status().message().find("baseline") != std::string::npos);
}

TEST(the_environment_variable_chooses) {
  for (Isa isa : available_isas()) {
    setenv("TANDEM_ISA", isa_name(isa), 1);
    CHECK(select_isa().value() == isa);
  }
  setenv("TANDEM_ISA", "abacus", 1);
  CHECK(!select_isa().ok());
  unsetenv("TANDEM_ISA");
  CHECK(select_isa().value() == select_isa("").value());
}
