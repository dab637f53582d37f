// What the engine keeps of one scheduler: its clock, its formula, and the lr after its last step.
// Schedulers that are made of others are nodes with children; one call steps the whole tree.
#pragma once

#include "bindings/torch_headers.h"

#include <memory>
#include <string>
#include <vector>

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

  // The clock, by the names of ScheduleClock.
  double read(const std::string& name) const;
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

  // The lr of all groups after the last step, and how often it has been written.
  const std::vector<double>& read_last_lr() const { return last_lr_; }
  int64_t num_moves() const { return SchedulerRow::num_moves; }
  // Whether no step has been counted but the one of construction.
  bool has_only_begun() const { return clock.step_count == 1; }
  // Whether the last step changed the lr, rather than keeping it.
  bool has_moved() const { return moves_.front().lr.kind != MoveKind::keep; }

  // The Python objects that the node keeps alive, for Python's cycle collector.
  int traverse(visitproc visit, void* arg) const;
  void clear_() { columns_ = py::tuple(); }

 private:
  void place_functions_();
  bool is_steppable();
  bool collect_parts(std::vector<const SchedulerNode*>& parts) const;
  void advance_(const ScheduleArgs& args);
  void check_moves_(int64_t num_groups) const;
  void prepare_moves_(int64_t num_groups);
  void read_column_(int32_t column, int64_t num_groups);
  void save_clock_();
  void restore_clock_();
  template <class Visit>
  void for_each_part(const Visit& visit);

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
};

void bind_scheduler_node(py::module_& module);

}  // namespace fusedlr
