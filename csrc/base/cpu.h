// What processor this is: how many threads make sense on it, and a name for files that suit only its kind.
// Depends on nothing.
#pragma once

#include <string>

namespace tandem {

// Physical cores among the CPUs that this process may run on, at least 1. Two hardware threads of a core share the
// units that matrix work saturates, so counting them twice only adds contention.
int physical_cores();

// Short name of the instruction set: equal on machines whose packed weights are interchangeable.
std::string cpu_name();

}  // namespace tandem
