// What the engine keeps of one scheduler: its clock, its formula, and the lr after its last step.
// Schedulers that are made of others are nodes with children; one call steps the whole tree.
#pragma once

#include "bindings/torch_headers.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/expression.h"
#include "math/schedule.h"

namespace fusedlr {

class SchedulerNode {
 public:
  // `kind` is the name of a schedule of math/schedule.h, or "sequential" or "chained" with
  // children. `column_names` say what the columns are, for error messages. `counts_steps`: whether
  // a step that comes from a parent advances the step count.
  SchedulerNode(const std::string& kind, std::vector<std::shared_ptr<SchedulerNode>> children,
                std::vector<std::string> column_names, bool counts_steps);

  // The clock, by the names of ScheduleClock.
  double read(const std::string& name) const;
  void write_(const std::string& name, double value);

  // What the next steps read: numbers by the names of the schedule's parameters; for each column a
  // sequence with one number for each group, which every step that needs it reads anew; the column
  // of the hypers that momentum moves write, or -1.
  void configure_(const py::dict& parameters, py::tuple columns, int64_t momentum_column);
  void set_table_(std::vector<double> table) { table_ = std::move(table); }
  // The user's functions of the step; or their values in the next step, if the host calls them.
  void set_functions_(std::vector<Expression> functions);
  void set_function_values_(const std::vector<double>& values);
  // Which function each group follows, if there are several.
  void set_function_of_group_(std::vector<int64_t> function_of_group) {
    function_of_group_ = std::move(function_of_group);
  }

  // Moves the lr of all groups (float64 [G]), and the momentum in `hypers` (float64 [G, H]). An
  // epoch asks for the closed form, or with `is_jump` for what warm restarts do; `metric` is a
  // number, a tensor or None. Throws before anything has moved.
  void step_(at::Tensor lr, at::Tensor hypers, const c10::optional<double>& epoch, bool is_initial,
             bool is_jump, const py::object& metric);

  // The lr of all groups after the last step, and how often it has been written.
  const at::Tensor& last_lr() const { return last_lr_; }
  int64_t num_moves() const { return num_moves_; }
  // Whether the last step changed the lr, rather than keeping it.
  bool has_moved() const { return !moves_.empty() && moves_.front().lr.kind != MoveKind::keep; }

  // The Python objects that the node keeps alive, for Python's cycle collector.
  int traverse(visitproc visit, void* arg) const;
  void clear_() { columns_ = py::tuple(); }

 private:
  enum class Composition { none, sequential, chained };

  void advance_(ScheduleStep step, const c10::optional<double>& epoch, bool counts,
                int64_t num_groups, std::vector<SchedulerNode*>& order);
  void prepare_(const ScheduleStep& step, int64_t num_groups);
  void read_column_(int32_t column, int64_t num_groups);
  void make_moves_(at::Tensor& lr, at::Tensor& hypers);
  void move_(Move Moves::* part, double* values, int64_t stride, const int64_t* which,
             int64_t num_groups);
  void save_clock_();
  void restore_clock_();

  Composition composition_ = Composition::none;
  size_t schedule_ = 0;  // index into Schedules
  std::vector<std::shared_ptr<SchedulerNode>> children_;
  std::vector<std::string> column_names_;
  bool counts_steps_;
  ScheduleClock clock_, clock_before_;
  std::vector<double> parameters_, table_;
  py::tuple columns_;
  int64_t momentum_column_ = -1;
  std::vector<Expression> functions_;
  std::vector<StepFunction> step_functions_;
  std::vector<int64_t> function_of_group_;
  at::Tensor last_lr_;
  int64_t num_moves_ = 0;

  // Of the step that is under way; members, so that their memory is used again.
  std::vector<Moves> moves_;  // for each function
  std::vector<std::vector<double>> column_values_;
  std::vector<SchedulerNode*> order_;
};

void bind_scheduler_node(py::module_& module);

}  // namespace fusedlr
