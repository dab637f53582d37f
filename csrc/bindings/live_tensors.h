// Hypers that the user gave as tensors. The user's tensor stays live: what is written into it in
// place reaches the group table, and what is written into the table (by a schedule, say) reaches
// the tensor.
#pragma once

#include <map>
#include <utility>

#include "bindings/torch_headers.h"

namespace fusedlr {

class LiveTensors {
 public:
  // The group table: lr [num_groups] and hypers [num_groups, num_hypers], float64 on the CPU.
  void set_table(at::Tensor lr, at::Tensor hypers);

  // Ties `tensor` (one element) to a column of a group; column -1 is lr. With `source`, a tensor
  // that the user shares among groups, `tensor` follows it until somebody writes into `tensor` or
  // into the table: from then on the group goes its own way.
  void put(int64_t group, int64_t column, at::Tensor tensor,
           const c10::optional<at::Tensor>& source);
  void drop(int64_t group, int64_t column);
  // Whether the tensor of a place still follows its source.
  bool follows_source(int64_t group, int64_t column) const;

  // Carries what was written since the last call to the other side; a tensor wins over the table.
  void sync_();
  // The same for one group only.
  void sync_group_(int64_t group);

 private:
  using Place = std::pair<int64_t, int64_t>;  // group, column

  struct Link {
    at::Tensor tensor, source;
    // Last seen values. A tensor of lower precision cannot hold what is in the table, so "has
    // anybody written?" compares each place with its own last value.
    double tensor_value, source_value, slot_value;
  };

  double& slot(int64_t group, int64_t column);
  void sync_link_(const Place& place, Link& link);

  at::Tensor lr_, hypers_;
  std::map<Place, Link> links_;
};

void bind_live_tensors(py::module_& module);

}  // namespace fusedlr
