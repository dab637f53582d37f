#include "bindings/step_clock.h"

#include <ATen/ops/zeros.h>
#include <pybind11/stl.h>

#include <limits>
#include <optional>

#include "bindings/tensor_access.h"

namespace fusedlr {
namespace {

at::Tensor new_counter() { return at::zeros({1}, at::TensorOptions(at::kCPU).dtype(at::kDouble)); }

double& number_in(const at::Tensor& counter) { return *counter.mutable_data_ptr<double>(); }

}  // namespace

StepClock::StepClock() : completed(new_counter()), skipped(new_counter()) {}

void StepClock::set_table(at::Tensor lr, at::Tensor hypers) {
  lr_ = std::move(lr);
  hypers_ = std::move(hypers);
}

void StepClock::configure(std::vector<Schedule> schedules, std::vector<Record> records) {
  schedules_ = std::move(schedules);
  records_ = std::move(records);
}

// Where the table lies may change behind the tensor, as in lr.share_memory_().
double* StepClock::slot(const Place& place) {
  const auto [group, column] = place;
  if (column < 0) return lr_.mutable_data_ptr<double>() + group;
  return hypers_.mutable_data_ptr<double>() + group * hypers_.size(1) + column;
}

void StepClock::begin_() {
  is_skipped_ = found_inf.defined() && read_number(found_inf) != 0;
  if (is_skipped_) return;
  for (const auto& [formula, places] : schedules_) {
    const double value = (*formula)(number_in(completed));
    for (const Place& place : places) *slot(place) = value;
  }
}

void StepClock::finish_() {
  if (is_skipped_) number_in(skipped) += 1;
  for (const Record& record : records_) record_(record);
  if (!is_skipped_) number_in(completed) += 1;
}

void StepClock::record_(const Record& record) {
  const auto& [memory, capacity, places] = record;
  const auto num_columns = static_cast<int64_t>(places.size()) + 2;
  double* rows = memory.mutable_data_ptr<double>();
  double& num_written = rows[capacity * num_columns];
  double* row = rows + static_cast<int64_t>(num_written) % capacity * num_columns;
  *row++ = number_in(completed);
  *row++ = number_in(skipped);
  for (const Place& place : places) {
    const bool is_gone = place.first < 0;
    *row++ = is_gone ? std::numeric_limits<double>::quiet_NaN() : *slot(place);
  }
  num_written += 1;
}

void bind_step_clock(py::module_& module) {
  py::class_<StepClock>(module, "StepClock")
      .def(py::init<>())
      .def("set_table", &StepClock::set_table, py::arg("lr"), py::arg("hypers"))
      .def("configure", &StepClock::configure, py::arg("schedules"), py::arg("records"))
      .def("begin_", &StepClock::begin_)
      .def("finish_", &StepClock::finish_)
      .def_property_readonly("is_skipped", &StepClock::is_skipped)
      .def_readwrite("ends_with_plans", &StepClock::ends_with_plans)
      .def_readonly("completed", &StepClock::completed)
      .def_readonly("skipped", &StepClock::skipped)
      .def_property(
          "found_inf",
          [](const StepClock& clock) {
            return clock.found_inf.defined() ? std::optional<at::Tensor>(clock.found_inf)
                                             : std::nullopt;
          },
          [](StepClock& clock, const std::optional<at::Tensor>& tensor) {
            clock.found_inf = tensor.value_or(at::Tensor());
          });
}

}  // namespace fusedlr
