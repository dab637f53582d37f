// What the engine keeps of one scheduler: its clock, its formula, and the lr after its last step.
// Schedulers that are made of others are nodes with children; one call steps the whole tree.
#pragma once

#include "bindings/torch_headers.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bindings/device_scheduler.h"
#include "bindings/device_table.h"
#include "bindings/expression.h"
#include "engine/kernel_tables.h"
#include "math/schedule.h"

namespace fusedlr {

// What a step is asked for.
struct ScheduleCall {
  c10::optional<double> epoch;  // by the closed form, or with `is_jump` as warm restarts do it
  bool is_initial = false;      // the step that construction performs
  bool is_jump = false;
  bool counts = false;  // whether the step count advances, where the scheduler has one
  py::object metric;    // a number, a tensor or None
};

class SchedulerNode : private SchedulerRow {
 public:
  // `kind` is the name of a schedule of math/schedule.h, or "sequential" or "chained" with
  // children. `column_names` say what the columns are, for error messages. `counts_steps`: whether
  // its steps are counted.
  SchedulerNode(const std::string& kind, std::vector<std::string> column_names, bool counts_steps);
  SchedulerNode(const SchedulerNode&) = delete;  // others know where it lies

  // The clock, by the names of ScheduleClock. Reading waits for a device that knows it better;
  // what is written is there before the next step.
  double read(const std::string& name);
  void write_(const std::string& name, double value);

  // What the next steps read: numbers by the names of the schedule's parameters; for each column a
  // sequence with one number for each group, which every step that needs it reads anew; the column
  // of the hypers that momentum moves write, or -1.
  void configure_(const py::dict& values, py::tuple columns, int64_t column_of_momentum);
  void set_children_(std::vector<std::shared_ptr<SchedulerNode>> nodes);
  void set_table_(std::vector<double> numbers);
  // The user's functions of the step; or their values in the next step, if the host calls them.
  void set_functions_(std::vector<Expression> expressions);
  void set_function_values_(const std::vector<double>& values);
  // Which function each group follows, if there are several.
  void set_function_of_group_(std::vector<int64_t> places);

  // Moves the lr of all groups (float64 [G]), and the momentum in `hypers` (float64 [G, H]).
  // Returns whether it has done so: not if a scheduler takes part twice, since a step in one call
  // knows one clock of each. Throws before anything has moved.
  bool step_(at::Tensor lr, at::Tensor hypers, const ScheduleCall& call);

  // The same on a device, in one launch, which a graph may capture: then every replay is a step. A
  // metric that is a tensor on the device is read there, in every replay anew. Waits for nothing.
  //
  // As long as the host knows the clock, it makes the step as well, but for the moves; so it can
  // refuse the step, and does not have to ask where the clock stands.
  bool step_on_(DeviceTable& table, const ScheduleCall& call);
  // Brings to the device what steps read, so that one can be captured, or replayed after an edit.
  // Does nothing if that does not fit the groups and no graph relies on it: a step will say so.
  void materialize_(DeviceTable& table);
  // Whether a graph has captured a step.
  bool was_captured() const { return device_ != nullptr && device_->was_captured(); }
  // Throws if the step that is under way is being captured, because `reason`.
  void refuse_capture(const std::string& reason) const;

  // The lr of all groups after the last step, and how often it has been written. Reading waits for
  // a device.
  std::vector<double> read_last_lr() const;
  int64_t num_moves();
  // Whether no step has been counted but the one of construction, as far as the host knows.
  bool has_only_begun() const { return !is_behind() && clock.step_count == 1; }
  // Whether the step that was just made changed the lr, or might have, for all the host knows.
  bool may_have_moved() const { return is_behind() || moves_[0].lr.kind != MoveKind::keep; }

  // The Python objects that the node keeps alive, for Python's cycle collector.
  int traverse(visitproc visit, void* arg) const;
  void clear_() { columns_ = py::tuple(); }

 private:
  void place_functions_();
  bool is_steppable();
  bool collect_parts(std::vector<const SchedulerNode*>& parts) const;
  void advance_(const ScheduleArgs& args);
  void check_moves(int64_t num_groups) const;
  void check_functions(int64_t num_groups) const;
  void prepare_moves_(int64_t num_groups);
  bool reads_column(int32_t column) const;
  void read_column_(int32_t column, int64_t num_groups);
  double number_in_(PyObject* item, int64_t place);
  void save_clock_() { clock_before_ = clock; }
  void restore_clock_() { clock = clock_before_; }
  template <class Visit>
  void for_each_node(const Visit& visit);
  template <class Visit>
  void for_each_part(const Visit& visit);

  bool is_behind() const { return device_ != nullptr && device_->is_ahead(); }
  void catch_up_();
  void move_to_(Device* device);
  bool fits(int64_t num_groups) const;
  void put_on_device_(int64_t num_groups, bool knows_moves);
  void check_capture() const;

  std::vector<std::string> column_names_;
  // What is known of the tree, and how many edits of trees have been seen.
  bool is_steppable_ = true;
  int64_t num_edits_seen_ = -1;
  ScheduleClock clock_before_;
  py::tuple columns_;

  // What the row points to.
  std::vector<std::shared_ptr<SchedulerNode>> children_;
  std::vector<SchedulerRow*> child_rows_;
  std::vector<double> table_;
  std::vector<Expression> expressions_;
  std::vector<StepFunction> functions_;
  std::vector<int64_t> function_of_group_;
  std::vector<double> column_values_;
  std::vector<Moves> moves_;
  std::vector<double> last_lr_;

  // The same on the device that steps it, if one does.
  std::shared_ptr<DeviceScheduler> device_;
  // Entries of columns that are tensors there, by their places in column_values_.
  struct SeenNumber {
    at::Tensor tensor;
    int64_t version;
    double value;
  };
  std::map<int64_t, SeenNumber> seen_numbers_;
  bool functions_are_put_ = false;
};

void bind_scheduler_node(py::module_& module);

}  // namespace fusedlr
