// A plan: the tables of engine/plan_tables.h, filled from torch tensors and checked before every
// step.
#pragma once

#include "bindings/torch_headers.h"

#include <array>
#include <memory>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "bindings/device_plan.h"
#include "bindings/device_table.h"
#include "bindings/dtensor.h"
#include "engine/plan_tables.h"

namespace fusedlr {

enum class Readiness {
  ready,
  stale,        // parameters, lists or storage have changed: build a new plan
  needs_state,  // missing() lists parameters that have a gradient but no state yet
};

class Plan {
 public:
  // `lr` is float64 [num_groups] and `hypers` float64 [num_groups, num_hypers], both on the CPU; a
  // plan on a device that runs kernels reads `table` instead. All parameters are on `place`.
  // `sparse_error` is what a sparse gradient raises. `capacity` is how many parameters will be
  // added.
  // `groups` is optimizer.param_groups.
  Plan(py::list groups, at::Tensor lr, at::Tensor hypers, std::string sparse_error,
       int64_t capacity, c10::Device place, std::shared_ptr<DeviceTable> table);

  // Adds parameters of group `group`, which follows `rule`. `positions` are their places in
  // `params`, group["params"] itself: an entry that is replaced there makes the plan stale.
  void add_params_(int32_t group, const std::string& rule, const py::list& params,
                   const std::vector<int32_t>& positions);

  // Gives the parameter of row `index` its step (undefined if the rule counts none) and its state.
  void set_state_(int64_t index, const c10::optional<at::Tensor>& step,
                  const std::vector<at::Tensor>& state);

  // Reads this step's gradients and checks everything that the step will touch. Throws on a bad
  // gradient.
  Readiness gather_();
  // Brings the gradients of DTensors that lie otherwise than their parameters to where those lie: a
  // collective operation, to be made once all plans are ready.
  void collect_grads_();
  // The rows that need state, as (row, group, position in group["params"]).
  std::vector<std::tuple<int64_t, int32_t, int32_t>> missing() const;

  // The same as if every parameter that requires one had a gradient, laid out as the parameter.
  Readiness gather_all_();

  // The table of a plan on a device that runs kernels, or null.
  const std::shared_ptr<DeviceTable>& table() const { return table_; }
  // Brings the device's tables up to date with what was gathered; see DevicePlan.
  void prepare_device_() { device_plan_->prepare_(tables_); }

  // Updates all gathered parameters. Cannot fail, so that a step is never half done. With a table:
  // whether this plan begins the step, and whether it ends it.
  void run_();
  void run_on_device_(bool begins, bool ends);

  // Whether an entry of optimizer.param_groups was added, removed or replaced.
  bool groups_have_changed() const { return watched_.empty() || has_changed(watched_.front()); }

  c10::Device place() const { return place_; }
  // Whether a captured graph may know its tables.
  bool was_captured() const { return device_plan_ != nullptr && device_plan_->was_captured(); }
  int64_t num_tensors() const { return static_cast<int64_t>(tensors_.size()); }
  int64_t table_bytes() const;

  // The Python objects that the plan keeps alive, for Python's cycle collector.
  int traverse(visitproc visit, void* arg) const;
  void clear_();

 private:
  // What the bindings remember of one row of the tensor table.
  struct TensorRecord {
    // Inside the Python object, which a watched list keeps alive: an owner here would hide
    // reference cycles through the parameter's hooks from Python's cycle collector.
    const at::Tensor* param;
    std::array<at::Tensor, kMaxStates> state;
    at::Tensor step;
    caffe2::TypeMeta param_type;
    caffe2::TypeMeta state_type;
    caffe2::TypeMeta step_type;
    // Of the last gradient that was fully checked, if it was a plain contiguous one.
    caffe2::TypeMeta grad_type;
    c10::DispatchKeySet grad_keys;
    int32_t position;          // in group["params"]
    int8_t num_states = 0;     // how many of `state` are set
    int8_t reals_per_element;  // 2 if complex
    bool has_state;            // all that its rule needs
    bool is_sharded = false;   // a DTensor, and so is its state: see shardings_
  };

  // What the bindings remember besides of a row whose parameter is a DTensor. The engines walk the
  // local tensors, which are looked up in every step.
  struct Sharding {
    PyObject* param = nullptr;  // kept alive by a watched list
    py::object param_spec;      // replaced: the plan is stale
    // Of the last gradient that was found to be placed as the parameter. Gradients of one
    // parameter usually share their spec.
    py::object grad_spec;
  };

  // A list that has held watched_items_[first, first + size) since it is watched.
  struct WatchedList {
    py::list list;
    size_t first, size;
  };

  // A layout that was worked out for one row, and the strides that it was worked out from.
  struct CachedLayout {
    std::vector<int64_t> strides;
    int32_t place = -1;  // in PlanTables::layouts, once this row has needed one
    bool in_order = true;
  };

  // Of a row in a step. The first two need nothing more.
  enum class Finding : uint8_t { no_grad, plain_grad, unusual_grad, needs_state, stale };

  // Makes the plan stale as soon as an entry of `list` is added, removed or replaced.
  void watch_(py::list list);
  bool has_changed(const WatchedList& watched) const;
  void prefetch_row(size_t index) const;
  Finding look_at_(size_t index, bool needs_grad);
  template <bool is_sharded>
  Finding look_at_row_(size_t index, bool needs_grad);
  Readiness activate_rows_(bool assumes_grads);
  bool lists_have_changed() const;
  void check_grad_(size_t index, const at::Tensor& grad);
  void check_local_grad_(size_t index, const at::Tensor& grad);
  void check_dtype_(size_t index, const at::Tensor& grad, const at::Tensor& param);
  void check_class(size_t index, const at::Tensor& grad) const;
  void check_placement(size_t index, size_t number, const at::Tensor& buffer) const;
  bool is_placed_as_param_(size_t index, const at::Tensor& grad);
  void add_sharding_(size_t index, PyObject* param);
  const at::Tensor& local(size_t index, const at::Tensor& tensor) const;
  const c10::TensorImpl* local_shard(const c10::TensorImpl& dtensor) const;
  void bump_version(size_t index) const;
  int32_t find_layout_(size_t index, const at::Tensor& grad);
  void check_overlap(const at::Tensor& param, size_t index) const;
  std::string name_of(size_t index) const;

  at::Tensor lr_, hypers_;
  std::string sparse_error_;
  c10::Device place_;
  std::shared_ptr<DeviceTable> table_;
  std::unique_ptr<DevicePlan> device_plan_;
  PlanTables tables_;
  std::vector<TensorRecord> tensors_;
  DTensorSlots slots_;
  std::vector<Sharding> shardings_;  // of all rows, if there is a DTensor
  std::vector<size_t> scattered_;    // rows of this step for collect_grads_
  std::vector<Finding> findings_;
  std::vector<WatchedList> watched_;
  std::vector<py::object> watched_items_;  // of all lists, one list after the other
  std::vector<int64_t> missing_;
  bool active_is_current_ = false;  // tables_.active is what findings_ says
  bool chunks_are_stale_ = true;
  std::unordered_map<size_t, CachedLayout> cached_layouts_;
  std::vector<at::Tensor> held_grads_;  // materialised for this step only
};

void bind_plan(py::module_& module);

}  // namespace fusedlr
