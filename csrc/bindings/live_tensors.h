// Hypers that the user gave as tensors. The user's tensor stays live: what is written into it in
// place reaches the group table before the next step, and what a schedule writes into the table
// reaches it.
#pragma once

#include "bindings/torch_headers.h"

#include <vector>

namespace fusedlr {

class LiveTensors {
 public:
  // Ties `tensor` (one element) to element `index` of `table` (float64, on the CPU). With `source`,
  // a tensor that the user shares among several groups, `tensor` follows it until somebody writes
  // into `tensor` itself: from then on the group goes its own way.
  void add(at::Tensor tensor, at::Tensor table, int64_t index, c10::optional<at::Tensor> source);

  // Tensors -> table.
  void refresh_();
  // Table -> tensors, where the table has changed.
  void publish_();

 private:
  struct Link {
    at::Tensor tensor, table, source;
    double* slot;
    // Last seen values. A tensor of lower precision cannot hold what is in the slot, so "has
    // anybody written?" compares each place with its own last value.
    double tensor_value, source_value, slot_value;
  };
  std::vector<Link> links_;
};

void bind_live_tensors(py::module_& module);

}  // namespace fusedlr
