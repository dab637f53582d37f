// Copies a run of elements of a strided operand to or from a contiguous block.
#pragma once

#include <algorithm>
#include <cstdint>

#include "engine/plan_tables.h"

namespace fusedlr::cpu {

// Calls visit(offset, stride, count, done) for every run along the innermost dimension that covers
// the elements [begin, begin + count) of the walk; `done` elements came before the run.
template <class Visit>
void for_each_run(const StridedLayout& layout, const std::vector<int64_t>& strides, int64_t begin,
                  int64_t count, Visit visit) {
  const auto num_dims = static_cast<int>(layout.sizes.size());
  const int64_t inner_size = layout.sizes[num_dims - 1];
  const int64_t inner_stride = strides[num_dims - 1];
  for (int64_t done = 0; done < count;) {
    int64_t index = begin + done;
    const int64_t inner = index % inner_size;
    index /= inner_size;
    int64_t offset = inner * inner_stride;
    for (int dim = num_dims - 2; dim >= 0; --dim) {
      offset += index % layout.sizes[dim] * strides[dim];
      index /= layout.sizes[dim];
    }
    const int64_t run = std::min(inner_size - inner, count - done);
    visit(offset, inner_stride, run, done);
    done += run;
  }
}

}  // namespace fusedlr::cpu
