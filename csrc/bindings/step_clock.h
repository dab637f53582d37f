// The clock of an optimizer: how many steps are completed and how many were skipped, and what goes
// by it: the hypers that follow a schedule, and the records of what happened.
#pragma once

#include "bindings/torch_headers.h"

#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/expression.h"

namespace fusedlr {

class StepClock {
 public:
  // A place in the group table: a group, and a column of its hypers or -1, which is the lr. A group
  // of -1 is one that is gone; its record is NaN.
  using Place = std::pair<int64_t, int64_t>;

  StepClock();

  // A formula of the completed steps, and the places that it fills before each step.
  using Schedule = std::pair<std::shared_ptr<Expression>, std::vector<Place>>;
  // Memory, capacity and places. After each step, also after a skipped one, a row is written:
  // completed steps when the step began, skipped steps, the places of the table. The memory is
  // float64: `capacity` rows, used in turn, and behind them the number of rows ever written.
  using Record = std::tuple<at::Tensor, int64_t, std::vector<Place>>;

  // `lr` is float64 [num_groups] and `hypers` float64 [num_groups, num_hypers].
  void set_table(at::Tensor lr, at::Tensor hypers);
  void configure(std::vector<Schedule> schedules, std::vector<Record> records);

  // Begins a step: writes the schedules into the table. If found_inf is not zero, the step is
  // skipped: nothing is written, and nothing else may move.
  void begin_();
  bool is_skipped() const { return is_skipped_; }
  // Ends it: counts it, and records it.
  void finish_();

  // Not zero if this step's gradients have overflowed; undefined if nobody looks for that.
  at::Tensor found_inf;
  // float64 of one element each: engines count in them.
  at::Tensor completed, skipped;
  // Whether a step ends with the last plan; otherwise parameters remain that no plan knows.
  bool ends_with_plans = true;

 private:
  double* slot(const Place& place);
  void record_(const Record& record);

  at::Tensor lr_, hypers_;
  std::vector<Schedule> schedules_;
  std::vector<Record> records_;
  bool is_skipped_ = false;
};

void bind_step_clock(py::module_& module);

}  // namespace fusedlr
