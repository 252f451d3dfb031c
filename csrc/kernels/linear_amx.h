// linear() of linear.h on AMX: 16 rows by 16 outputs by 64 inputs in one instruction, eight times the dot products of
// VNNI. Sums of integers are exact, and what follows is done in the same order: the same bits.
#pragma once

#include "kernels/linear.h"

namespace tandem {

// Whether linear_amx() may multiply this matrix, and knows its format.
bool linear_amx_available(const PackedMatrix& matrix);
// linear_block() of these.
int linear_amx_block(const PackedMatrix& matrix);

// As linear().
void linear_amx(const PackedMatrix& matrix, const ByteRows& in, int rows, int64_t first, int64_t last, float* out,
                int64_t out_stride);

}  // namespace tandem
