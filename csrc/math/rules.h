// THE list of rules. Engines build their dispatch tables from it; nothing else enumerates rules.
//
// A rule is a struct with
//   kName, kStates (per-element buffers), kCountsSteps (whether a parameter has a step count)
//   Hyper      a row of the group table: doubles, with their names
//   Coeffs     numbers that are constant within one step of one tensor: at most kMaxCoeffs doubles
//   Memo       what prepare may reuse between consecutive tensors
//   counts_step(hyper)                        whether this step advances the count
//   prepare(hyper, lr, step, memo) -> Coeffs  once per tensor, in double
//   update(param, grad, state..., coeffs)     per element, in opmath
#pragma once

#include <tuple>

#include "math/adam.h"
#include "math/sgd.h"

namespace fusedlr {

using Rules = std::tuple<Adam<false>, Adam<true>, Sgd<false>, Sgd<true>>;

constexpr int kMaxStates = 3;
constexpr int kMaxCoeffs = 8;

}  // namespace fusedlr
