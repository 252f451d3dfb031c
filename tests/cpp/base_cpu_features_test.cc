// CPU features: the widest set by default, TANDEM_ISA's names accepted, others refused.
#include <cstdlib>

#include "base/cpu_features.h"
#include "check.h"

using namespace tandem;

TEST(default_is_the_widest) {
  CHECK(select_isa("").value() == available_isas().back());
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
  CHECK(select_isa().value() == available_isas().back());
}
