// What a step reads and counts for one tensor before its elements are updated.
#pragma once

#include <cstdint>
#include <iterator>

#include "engine/plan_tables.h"
#include "engine/struct_of_doubles.h"
#include "math/host_device.h"

namespace fusedlr {

FUSEDLR_HOST_DEVICE int64_t read_step(const TensorRow& row) {
  return static_cast<int64_t>(row.step_dtype == Dtype::float64 ? *static_cast<double*>(row.step)
                                                               : *static_cast<float*>(row.step));
}

FUSEDLR_HOST_DEVICE void advance_step_(const TensorRow& row) {
  if (row.step_dtype == Dtype::float64) {
    *static_cast<double*>(row.step) += 1.0;
  } else {
    *static_cast<float*>(row.step) += 1.0f;
  }
}

// The hypers of a group, out of the group table.
template <class Rule>
FUSEDLR_HOST_DEVICE typename Rule::Hyper hyper_of(const double* hypers, int64_t num_hypers,
                                                  int32_t group) {
  static_assert(kDoubles<typename Rule::Hyper> == std::size(Rule::Hyper::kNames));
  return read_struct<typename Rule::Hyper>(hypers + group * num_hypers);
}

}  // namespace fusedlr
