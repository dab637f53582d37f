// Schedules: one call moves the lr of every group.
#include "bindings/lr_schedule.h"

#include <algorithm>
#include <string>
#include <vector>

#include "math/schedule.h"

namespace fusedlr {
namespace {

// Reads one number per group from a Python sequence; nothing has moved when one is missing or none.
std::vector<double> read_per_group(const py::object& values, int64_t num_groups, const char* what) {
  const auto items = py::reinterpret_steal<py::object>(
      PySequence_Fast(values.ptr(), "a scheduler needs a sequence with one entry for each group"));
  if (!items) throw py::error_already_set();
  const auto size = static_cast<int64_t>(PySequence_Fast_GET_SIZE(items.ptr()));
  if (size != num_groups) {
    throw py::value_error("the scheduler has " + std::to_string(size) + " " + what +
                          ", but the optimizer has " + std::to_string(num_groups) +
                          " param groups; build a new scheduler after add_param_group()");
  }
  std::vector<double> numbers(num_groups);
  for (int64_t g = 0; g < num_groups; ++g) {
    numbers[g] = PyFloat_AsDouble(PySequence_Fast_GET_ITEM(items.ptr(), g));
    if (numbers[g] == -1.0 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  }
  return numbers;
}

struct Schedule {
  ScheduleOp op;
  std::vector<double> milestones;

  Schedule(ScheduleKind kind, double gamma, double period, double eta_min,
           std::vector<double> sorted_milestones)
      : milestones(std::move(sorted_milestones)) {
    op = {kind, gamma, period, eta_min, nullptr, 0};
  }
};

void move_lr_(at::Tensor& lr, const Move& move, const py::object& base_lrs) {
  double* value = lr.mutable_data_ptr<double>();
  if (!needs_base_lr(move)) {
    for (int64_t g = 0; g < lr.numel(); ++g) value[g] = apply(move, value[g], 0.0);
    return;
  }
  const std::vector<double> base = read_per_group(base_lrs, lr.numel(), "base_lrs");
  for (int64_t g = 0; g < lr.numel(); ++g) value[g] = apply(move, value[g], base[g]);
}

// Moves every group's lr to `epoch`, by the chainable or by the closed form.
void schedule_(at::Tensor lr, Schedule schedule, const py::object& base_lrs, double epoch,
               bool is_initial, bool is_restarted, bool closed_form) {
  schedule.op.milestones = schedule.milestones.data();
  schedule.op.num_milestones = static_cast<int64_t>(schedule.milestones.size());
  const Move move = closed_form ? prepare_closed_form(schedule.op, epoch)
                                : prepare(schedule.op, {epoch, is_initial, is_restarted});
  move_lr_(lr, move, base_lrs);
}

// lr[g] = base_lr[g] * lambdas[g](epoch). A function that serves consecutive groups is called once.
void schedule_lambdas_(at::Tensor lr, const py::sequence& given_lambdas, const py::object& base_lrs,
                       const py::object& epoch) {
  const int64_t num_groups = lr.numel();
  const std::vector<double> base = read_per_group(base_lrs, num_groups, "base_lrs");
  const py::list lambdas(given_lambdas);  // a copy: a function may change the original
  if (static_cast<int64_t>(lambdas.size()) != num_groups) {
    throw py::value_error("the scheduler has " + std::to_string(lambdas.size()) +
                          " lr_lambdas, but the optimizer has " + std::to_string(num_groups) +
                          " param groups; build a new scheduler after add_param_group()");
  }
  std::vector<double> moved(num_groups);
  py::object previous;
  double factor = 0;
  for (int64_t g = 0; g < num_groups; ++g) {
    const auto function = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(lambdas.ptr(), g));
    if (!function.is(previous)) {
      factor = PyFloat_AsDouble(py::object(function(epoch)).ptr());
      if (factor == -1.0 && PyErr_Occurred() != nullptr) throw py::error_already_set();
      previous = function;
    }
    moved[g] = base[g] * factor;
  }
  std::copy(moved.begin(), moved.end(), lr.mutable_data_ptr<double>());
}

void schedule_plateau_(at::Tensor lr, double factor, const py::object& min_lrs, double eps) {
  const std::vector<double> min_lr = read_per_group(min_lrs, lr.numel(), "min_lrs");
  double* value = lr.mutable_data_ptr<double>();
  for (int64_t g = 0; g < lr.numel(); ++g) {
    value[g] = reduce_on_plateau(value[g], factor, min_lr[g], eps);
  }
}

}  // namespace

void bind_lr_schedule(py::module_& module) {
  py::enum_<ScheduleKind>(module, "ScheduleKind")
      .value("step", ScheduleKind::step)
      .value("multi_step", ScheduleKind::multi_step)
      .value("exponential", ScheduleKind::exponential)
      .value("cosine_annealing", ScheduleKind::cosine_annealing);

  py::class_<Schedule>(module, "Schedule")
      .def(py::init<ScheduleKind, double, double, double, std::vector<double>>(), py::arg("kind"),
           py::arg("gamma") = 1.0, py::arg("period") = 1.0, py::arg("eta_min") = 0.0,
           py::arg("milestones") = std::vector<double>{});

  module.def("schedule_", &schedule_, py::arg("lr"), py::arg("schedule"), py::arg("base_lrs"),
             py::arg("epoch"), py::arg("is_initial"), py::arg("is_restarted"),
             py::arg("closed_form"));
  module.def("schedule_lambdas_", &schedule_lambdas_, py::arg("lr"), py::arg("lambdas"),
             py::arg("base_lrs"), py::arg("epoch"));
  module.def("schedule_plateau_", &schedule_plateau_, py::arg("lr"), py::arg("factor"),
             py::arg("min_lrs"), py::arg("eps"));
}

}  // namespace fusedlr
