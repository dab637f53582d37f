// A rule of math/rules.h, applied to operands that lie in an array.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "engine/plan_tables.h"
#include "engine/unroll.h"
#include "math/host_device.h"
#include "math/rules.h"

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

// The coefficients of one row, from kMaxCoeffs numbers.
template <class Rule>
FUSEDLR_HOST_DEVICE typename Rule::Coeffs read_coeffs(const double* from) {
  typename Rule::Coeffs coeffs;
  constexpr int kCoeffs = sizeof(coeffs) / sizeof(double);
  static_assert(sizeof(coeffs) % sizeof(double) == 0 && kCoeffs <= kMaxCoeffs);
  // By way of registers: a device copies memory byte by byte in memcpy.
  double numbers[kCoeffs];
  FUSEDLR_UNROLL
  for (int i = 0; i < kCoeffs; ++i) numbers[i] = from[i];
  memcpy(&coeffs, numbers, sizeof(coeffs));
  return coeffs;
}

}  // namespace fusedlr
