// A rule of math/rules.h, applied to operands that lie in an array of opmath.
#pragma once

#include <utility>

#include "engine/plan_tables.h"
#include "math/host_device.h"

namespace fusedlr {

template <class Rule, class Opmath, size_t... I>
FUSEDLR_HOST_DEVICE void apply_rule(Opmath* operands, const typename Rule::Coeffs& coeffs,
                                    std::index_sequence<I...>) {
  Rule::update(operands[kParam], operands[kGrad], operands[kFirstState + I]..., coeffs);
}

template <class Rule, class Opmath>
FUSEDLR_HOST_DEVICE void apply_rule(Opmath* operands, const typename Rule::Coeffs& coeffs) {
  apply_rule<Rule>(operands, coeffs, std::make_index_sequence<Rule::kStates>());
}

}  // namespace fusedlr
