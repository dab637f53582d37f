#include "bindings/scheduler_node.h"

#include <ATen/ops/empty_like.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "bindings/tensor_access.h"

namespace fusedlr {
namespace {

struct ScheduleFacts {
  const char* name;
  int num_parameters;
  const char* const* parameters;
  std::vector<PyObject*> keys;  // the same as Python strings, which live as long as the process
  Moves (*prepare)(const double*, ScheduleClock&, const ScheduleStep&);
};

template <class Schedule>
Moves prepare(const double* parameters, ScheduleClock& clock, const ScheduleStep& step) {
  return Schedule::prepare(parameters, clock, step);
}

std::vector<PyObject*> keys_of(int count, const char* const* names) {
  std::vector<PyObject*> keys(count);
  std::transform(names, names + count, keys.begin(), &PyUnicode_InternFromString);
  return keys;
}

template <class... Schedule>
std::vector<ScheduleFacts> facts_of(const std::tuple<Schedule...>*) {
  static_assert(((Schedule::kNumParameters <= kMaxParameters) && ...), "raise kMaxParameters");
  return {ScheduleFacts{Schedule::kName, Schedule::kNumParameters, Schedule::kParameters,
                        keys_of(Schedule::kNumParameters, Schedule::kParameters),
                        &prepare<Schedule>}...};
}

const std::vector<ScheduleFacts>& schedule_facts() {
  static const auto facts = facts_of(static_cast<const Schedules*>(nullptr));
  return facts;
}

double& clock_entry(const ScheduleClock& clock, const std::string& name) {
  static_assert(sizeof(ScheduleClock) == sizeof(double) * std::size(ScheduleClock::kNames));
  const auto found =
      std::find(std::begin(ScheduleClock::kNames), std::end(ScheduleClock::kNames), name);
  if (found == std::end(ScheduleClock::kNames)) {
    throw py::key_error("a scheduler's clock has no '" + name + "'");
  }
  const auto* entries = reinterpret_cast<const double*>(&clock);
  return const_cast<double*>(entries)[found - std::begin(ScheduleClock::kNames)];
}

double to_double(PyObject* item) {
  if (PyFloat_CheckExact(item)) return PyFloat_AS_DOUBLE(item);
  if (PyLong_CheckExact(item)) {
    const double number = PyLong_AsDouble(item);
    if (number == -1.0 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    return number;
  }
  if (THPVariable_Check(item)) return read_number(THPVariable_Unpack(item));
  const double number = PyFloat_AsDouble(item);
  if (number == -1.0 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return number;
}

[[noreturn]] void refuse_count(size_t count, const std::string& what, int64_t num_groups) {
  throw py::value_error("the scheduler has " + std::to_string(count) + " " + what +
                        ", but the optimizer has " + std::to_string(num_groups) +
                        " param groups; build a new scheduler after add_param_group()");
}

[[noreturn]] void refuse_as_part(const char* kind) {
  PyErr_Format(
      PyExc_NotImplementedError,
      "a %s scheduler cannot start at a milestone of SequentialLR: it has no lr of its own "
      "for an epoch; make it the first scheduler, or list its parts instead",
      kind);
  throw py::error_already_set();
}

}  // namespace

SchedulerNode::SchedulerNode(const std::string& kind,
                             std::vector<std::shared_ptr<SchedulerNode>> children,
                             std::vector<std::string> column_names, bool counts_steps)
    : children_(std::move(children)),
      column_names_(std::move(column_names)),
      counts_steps_(counts_steps),
      step_functions_(1),
      column_values_(column_names_.size()) {
  if (kind == "sequential") {
    composition_ = Composition::sequential;
  } else if (kind == "chained") {
    composition_ = Composition::chained;
  } else {
    const auto& facts = schedule_facts();
    while (schedule_ < facts.size() && kind != facts[schedule_].name) ++schedule_;
    if (schedule_ == facts.size()) throw py::value_error("unknown schedule '" + kind + "'");
  }
}

double SchedulerNode::read(const std::string& name) const { return clock_entry(clock_, name); }

void SchedulerNode::write_(const std::string& name, double value) {
  clock_entry(clock_, name) = value;
}

void SchedulerNode::configure_(const py::dict& parameters, py::tuple columns,
                               int64_t momentum_column) {
  const ScheduleFacts& facts = schedule_facts()[schedule_];
  const int count = composition_ == Composition::none ? facts.num_parameters : 0;
  parameters_.resize(count);
  for (int i = 0; i < count; ++i) {
    PyObject* value = PyDict_GetItem(parameters.ptr(), facts.keys[i]);
    if (value == nullptr) {
      throw py::key_error(std::string("schedule '") + facts.name + "' needs a parameter '" +
                          facts.parameters[i] + "'");
    }
    parameters_[i] = to_double(value);
  }
  if (columns.size() != column_names_.size()) throw py::value_error("a column is missing");
  columns_ = std::move(columns);
  momentum_column_ = momentum_column;
}

void SchedulerNode::set_functions_(std::vector<Expression> functions) {
  functions_ = std::move(functions);
  step_functions_.clear();
  for (Expression& function : functions_) step_functions_.push_back(function.step_function());
}

void SchedulerNode::set_function_values_(const std::vector<double>& values) {
  functions_.clear();
  step_functions_.assign(values.size(), {});
  for (size_t i = 0; i < values.size(); ++i) step_functions_[i].value = values[i];
}

int SchedulerNode::traverse(visitproc visit, void* arg) const {
  Py_VISIT(columns_.ptr());
  return 0;
}

void SchedulerNode::save_clock_() {
  clock_before_ = clock_;
  for (const auto& child : children_) child->save_clock_();
}

void SchedulerNode::restore_clock_() {
  clock_ = clock_before_;
  for (const auto& child : children_) child->restore_clock_();
}

void SchedulerNode::read_column_(int32_t column, int64_t num_groups) {
  const auto items = py::reinterpret_steal<py::object>(
      PySequence_Fast(PyTuple_GET_ITEM(columns_.ptr(), column), "a column must be a sequence"));
  if (!items) throw py::error_already_set();
  const auto size = static_cast<int64_t>(PySequence_Fast_GET_SIZE(items.ptr()));
  if (size != num_groups) refuse_count(size, column_names_[column], num_groups);
  std::vector<double>& values = column_values_[column];
  values.resize(num_groups);
  for (int64_t g = 0; g < num_groups; ++g) {
    values[g] = to_double(PySequence_Fast_GET_ITEM(items.ptr(), g));
  }
}

// Turns the clock into moves, and reads the columns that they need.
void SchedulerNode::prepare_(const ScheduleStep& step, int64_t num_groups) {
  moves_.assign(1, {});
  if (composition_ != Composition::none) return;
  const size_t num_functions = step_functions_.size();
  moves_.resize(num_functions);
  ScheduleStep own_step = step;
  own_step.table = table_.data();
  own_step.table_size = static_cast<int64_t>(table_.size());
  const ScheduleClock clock = clock_;
  for (size_t i = 0; i < num_functions; ++i) {
    clock_ = clock;
    own_step.function = step_functions_[i];
    moves_[i] = schedule_facts()[schedule_].prepare(parameters_.data(), clock_, own_step);
    const Move& move = moves_[i].lr;
    if (!functions_.empty() && !(std::isfinite(move.a) && std::isfinite(move.b))) {
      PyErr_SetString(PyExc_FloatingPointError, "a function of the step has no finite value");
      throw py::error_already_set();
    }
  }
  const Moves& moves = moves_.front();
  if (moves.is_past_the_end) {
    PyErr_Format(
        PyExc_ValueError, "Tried to step %lld times. The specified number of total steps is %lld",
        static_cast<long long>(clock_.last_epoch), static_cast<long long>(moves.total_steps));
    throw py::error_already_set();
  }
  for (int32_t column = 0; column < static_cast<int32_t>(column_names_.size()); ++column) {
    const bool is_read = moves.lr.from == column || moves.lr.to == column ||
                         moves.momentum.from == column || moves.momentum.to == column;
    if (is_read) read_column_(column, num_groups);
  }
  if (num_functions > 1 && static_cast<int64_t>(function_of_group_.size()) != num_groups) {
    refuse_count(function_of_group_.size(), "functions", num_groups);
  }
}

// Advances the clocks of the nodes that take part in this step; `order` gets the nodes in the order
// of their moves.
void SchedulerNode::advance_(ScheduleStep step, const c10::optional<double>& epoch, bool counts,
                             int64_t num_groups, std::vector<SchedulerNode*>& order) {
  if (composition_ != Composition::none && epoch.has_value()) {
    refuse_as_part(composition_ == Composition::sequential ? "sequential" : "chained");
  }
  if (counts && counts_steps_) clock_.step_count += 1;
  clock_.last_epoch = epoch.value_or(clock_.last_epoch + 1);
  if (composition_ == Composition::sequential) {
    const auto next = std::upper_bound(table_.begin(), table_.end(), clock_.last_epoch);
    ScheduleStep part;
    part.is_closed = next != table_.begin() && next[-1] == clock_.last_epoch;
    const auto start = part.is_closed ? c10::optional<double>(0.0) : c10::nullopt;
    children_.at(next - table_.begin())->advance_(part, start, !part.is_closed, num_groups, order);
  } else if (composition_ == Composition::chained) {
    for (const auto& child : children_) child->advance_({}, {}, true, num_groups, order);
  }
  prepare_(step, num_groups);
  order.push_back(this);
}

void SchedulerNode::make_moves_(at::Tensor& lr, at::Tensor& hypers) {
  const int64_t num_groups = lr.numel();
  if (!last_lr_.defined() || last_lr_.numel() != num_groups) last_lr_ = at::empty_like(lr);
  double* value = lr.mutable_data_ptr<double>();
  const int64_t* which = moves_.size() == 1 ? nullptr : function_of_group_.data();
  move_(&Moves::lr, value, 1, which, num_groups);
  std::copy(value, value + num_groups, last_lr_.mutable_data_ptr<double>());
  if (momentum_column_ >= 0) {
    double* momentum = hypers.mutable_data_ptr<double>() + momentum_column_;
    move_(&Moves::momentum, momentum, hypers.size(1), which, num_groups);
  }
  ++num_moves_;
}

// Moves one number of each group, `stride` apart from each other. `which` picks the move of each
// group; without it, all make the first one.
void SchedulerNode::move_(Move Moves::* part, double* values, int64_t stride, const int64_t* which,
                          int64_t num_groups) {
  const Move first = moves_.front().*part;
  if (first.kind == MoveKind::keep) return;
  const double* from = first.from < 0 ? nullptr : column_values_[first.from].data();
  const double* to = first.to < 0 ? nullptr : column_values_[first.to].data();
  for (int64_t g = 0; g < num_groups; ++g) {
    // A copy of `first` that the compiler can keep in registers.
    const Move move = which == nullptr ? first : moves_[which[g]].*part;
    values[g * stride] = apply(move, values[g * stride], from == nullptr ? 0.0 : from[g],
                               to == nullptr ? 0.0 : to[g]);
  }
}

void SchedulerNode::step_(at::Tensor lr, at::Tensor hypers, const c10::optional<double>& epoch,
                          bool is_initial, bool is_jump, const py::object& metric) {
  ScheduleStep step;
  step.is_initial = is_initial;
  step.is_jump = is_jump;
  step.is_closed = epoch.has_value() && !is_jump;
  if (!metric.is_none()) step.metric = to_double(metric.ptr());
  order_.clear();
  save_clock_();
  try {
    advance_(step, epoch, /*counts=*/false, lr.numel(), order_);
  } catch (...) {
    restore_clock_();
    throw;
  }
  for (SchedulerNode* node : order_) node->make_moves_(lr, hypers);
}

namespace {

// Lets Python's cycle collector see through a node.
const py::custom_type_setup collectable([](PyHeapTypeObject* heap_type) {
  PyTypeObject* type = &heap_type->ht_type;
  type->tp_flags |= Py_TPFLAGS_HAVE_GC;
  type->tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    if (!py::detail::is_holder_constructed(self)) return 0;
    return py::cast<SchedulerNode&>(py::handle(self)).traverse(visit, arg);
  };
  type->tp_clear = [](PyObject* self) {
    py::cast<SchedulerNode&>(py::handle(self)).clear_();
    return 0;
  };
});

}  // namespace

void bind_scheduler_node(py::module_& module) {
  using Node = SchedulerNode;
  py::class_<Node, std::shared_ptr<Node>>(module, "SchedulerNode", collectable)
      .def(py::init<const std::string&, std::vector<std::shared_ptr<Node>>,
                    std::vector<std::string>, bool>(),
           py::arg("kind"), py::arg("children"), py::arg("column_names"), py::arg("counts_steps"))
      .def("read", &Node::read, py::arg("name"))
      .def("write_", &Node::write_, py::arg("name"), py::arg("value"))
      .def("configure_", &Node::configure_, py::arg("parameters"), py::arg("columns"),
           py::arg("momentum_column"))
      .def("set_table_", &Node::set_table_, py::arg("table"))
      .def("set_functions_", &Node::set_functions_, py::arg("functions"))
      .def("set_function_values_", &Node::set_function_values_, py::arg("values"))
      .def("set_function_of_group_", &Node::set_function_of_group_, py::arg("function_of_group"))
      .def_property_readonly("last_lr", &Node::last_lr)
      .def_property_readonly("num_moves", &Node::num_moves)
      .def_property_readonly("has_moved", &Node::has_moved);

  // One step of a scheduler and of those that it is made of.
  module.def(
      "schedule_",
      [](Node& node, at::Tensor lr, at::Tensor hypers, const c10::optional<double>& epoch,
         bool is_initial, bool is_jump, const py::object& metric) {
        node.step_(std::move(lr), std::move(hypers), epoch, is_initial, is_jump, metric);
      },
      py::arg("node"), py::arg("lr"), py::arg("hypers"), py::arg("epoch"), py::arg("is_initial"),
      py::arg("is_jump"), py::arg("metric"));

  // The names of the schedules, with those of their parameters.
  module.def("schedules", [] {
    py::dict schedules;
    for (const ScheduleFacts& facts : schedule_facts()) {
      schedules[facts.name] =
          std::vector<std::string>(facts.parameters, facts.parameters + facts.num_parameters);
    }
    return schedules;
  });
}

}  // namespace fusedlr
