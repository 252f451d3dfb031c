// Whether two targets that run the same bundle agree: how `backend="auto"` decides that a GPU can be trusted. Depends
// on model.
#pragma once

#include "base/status.h"
#include "model/target.h"

namespace tandem {

// Root mean square of the difference of their logits over a short random sequence, relative to the spread of those of
// `reference`.
Result<double> logit_difference(Target& candidate, Target& reference);

}  // namespace tandem
