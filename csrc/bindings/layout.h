// Finds an order in which all operands of one tensor can be walked.
#pragma once

#include "bindings/torch_headers.h"

#include <optional>
#include <vector>

#include "engine/plan_tables.h"

namespace fusedlr {

// Whether two tensors of equal sizes lie in memory alike.
bool same_layout(const at::Tensor& a, const at::Tensor& b);

// The walk over `operands` (param, grad, state...; undefined ones are left out), which all have the
// sizes of the parameter: in memory order of the parameter where that is dense, else in index
// order. Nothing if every operand lies in the order of the walk. Complex tensors are walked as
// reals.
std::optional<StridedLayout> strided_layout(const std::vector<at::Tensor>& operands);

}  // namespace fusedlr
