#include "bindings/scheduler_node.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <utility>

#include "bindings/tensor_access.h"
#include "engine/kernel_schedule.h"

namespace fusedlr {
namespace {

// How often the children or the table of any node have been set.
int64_t num_edits = 0;

struct ScheduleFacts {
  const char* name;
  int num_parameters;
  const char* const* parameters;
  std::vector<PyObject*> keys;  // the same as Python strings, which live as long as the process
};

std::vector<PyObject*> keys_of(int count, const char* const* names) {
  std::vector<PyObject*> keys(count);
  std::transform(names, names + count, keys.begin(), &PyUnicode_InternFromString);
  return keys;
}

template <class... Schedule>
std::vector<ScheduleFacts> facts_of(const std::tuple<Schedule...>*) {
  static_assert(((Schedule::kNumParameters <= kMaxParameters) && ...), "raise kMaxParameters");
  return {ScheduleFacts{Schedule::kName, Schedule::kNumParameters, Schedule::kParameters,
                        keys_of(Schedule::kNumParameters, Schedule::kParameters)}...};
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

[[noreturn]] void refuse_as_part(Composition composition) {
  PyErr_Format(
      PyExc_NotImplementedError,
      "a %s scheduler cannot start at a milestone of SequentialLR: it has no lr of its own "
      "for an epoch; make it the first scheduler, or list its parts instead",
      composition == Composition::sequential ? "sequential" : "chained");
  throw py::error_already_set();
}

ScheduleArgs args_of(const ScheduleCall& call) {
  ScheduleArgs args{};
  args.has_epoch = call.epoch.has_value();
  args.epoch = call.epoch.value_or(0.0);
  args.is_initial = call.is_initial;
  args.is_jump = call.is_jump;
  args.counts = call.counts;
  return args;
}

// The metric, if it is a number in the device's memory.
at::Tensor find_metric_on(const Device& device, const py::object& metric) {
  if (!THPVariable_Check(metric.ptr())) return {};
  const at::Tensor tensor = THPVariable_Unpack(metric.ptr()).detach();
  if (tensor.device() != device.place() || tensor.numel() != 1 || tensor.is_complex() ||
      is_wrapper(tensor)) {
    return {};
  }
  Dtype dtype;
  return find_storage(tensor.scalar_type(), dtype) ? tensor : tensor.to(at::kDouble);
}

}  // namespace

SchedulerNode::SchedulerNode(const std::string& kind, std::vector<std::string> column_names,
                             bool counts_steps)
    : column_names_(std::move(column_names)) {
  SchedulerRow::counts_steps = counts_steps;
  if (kind == "sequential") {
    composition = Composition::sequential;
  } else if (kind == "chained") {
    composition = Composition::chained;
  } else {
    const auto& facts = schedule_facts();
    const auto found = std::find_if(facts.begin(), facts.end(),
                                    [&](const ScheduleFacts& one) { return kind == one.name; });
    if (found == facts.end()) throw py::value_error("unknown schedule '" + kind + "'");
    schedule = static_cast<int32_t>(found - facts.begin());
  }
  set_function_values_({1.0});
}

double SchedulerNode::read(const std::string& name) {
  catch_up_();
  return clock_entry(clock, name);
}

void SchedulerNode::write_(const std::string& name, double value) {
  double& entry = clock_entry(clock, name);
  const bool is_known = !is_behind() && std::memcmp(&entry, &value, sizeof(value)) == 0;
  if (device_ != nullptr && !is_known) {
    device_->write_clock_(reinterpret_cast<char*>(&entry) - reinterpret_cast<char*>(&clock), value);
  }
  entry = value;
}

std::vector<double> SchedulerNode::read_last_lr() const {
  return device_ == nullptr ? last_lr_ : device_->read_last_lr();
}

int64_t SchedulerNode::num_moves() {
  catch_up_();
  return SchedulerRow::num_moves;
}

void SchedulerNode::configure_(const py::dict& values, py::tuple new_columns,
                               int64_t column_of_momentum) {
  const ScheduleFacts& facts = schedule_facts()[schedule];
  const int count = composition == Composition::none ? facts.num_parameters : 0;
  for (int i = 0; i < count; ++i) {
    PyObject* value = PyDict_GetItem(values.ptr(), facts.keys[i]);
    if (value == nullptr) {
      throw py::key_error(std::string("schedule '") + facts.name + "' needs a parameter '" +
                          facts.parameters[i] + "'");
    }
    parameters[i] = to_double(value);
  }
  if (new_columns.size() != column_names_.size()) throw py::value_error("a column is missing");
  columns_ = std::move(new_columns);
  momentum_column = static_cast<int32_t>(column_of_momentum);
}

void SchedulerNode::set_children_(std::vector<std::shared_ptr<SchedulerNode>> nodes) {
  children_ = std::move(nodes);
  child_rows_.clear();
  for (const auto& child : children_) child_rows_.push_back(child.get());
  children = child_rows_.data();
  num_children = static_cast<int64_t>(child_rows_.size());
  ++num_edits;
}

void SchedulerNode::set_table_(std::vector<double> numbers) {
  table_ = std::move(numbers);
  table = table_.data();
  table_size = static_cast<int64_t>(table_.size());
  ++num_edits;
}

void SchedulerNode::set_functions_(std::vector<Expression> expressions) {
  expressions_ = std::move(expressions);
  functions_.clear();
  for (Expression& expression : expressions_) functions_.push_back(expression.step_function());
  place_functions_();
}

void SchedulerNode::set_function_values_(const std::vector<double>& values) {
  expressions_.clear();
  functions_.assign(values.size(), {});
  for (size_t i = 0; i < values.size(); ++i) functions_[i].value = values[i];
  place_functions_();
}

void SchedulerNode::place_functions_() {
  moves_.assign(functions_.size(), {});
  functions = functions_.data();
  moves = moves_.data();
  num_functions = static_cast<int64_t>(functions_.size());
  functions_are_put_ = false;
}

void SchedulerNode::set_function_of_group_(std::vector<int64_t> places) {
  function_of_group_ = std::move(places);
  function_of_group = function_of_group_.data();
}

int SchedulerNode::traverse(visitproc visit, void* arg) const {
  Py_VISIT(columns_.ptr());
  return 0;
}

// Adds the nodes that can take part in one step of this one to `parts`; false if one does twice.
bool SchedulerNode::collect_parts(std::vector<const SchedulerNode*>& parts) const {
  if (std::find(parts.begin(), parts.end(), this) != parts.end()) return false;
  if (composition == Composition::chained) {
    for (const auto& child : children_) {
      if (!child->collect_parts(parts)) return false;
    }
  } else if (composition == Composition::sequential) {
    if (table_.size() >= children_.size()) {
      throw std::out_of_range(
          "a sequence of " + std::to_string(children_.size()) +
          " schedulers has too many milestones: " + std::to_string(table_.size()));
    }
    const std::vector<const SchedulerNode*> others = parts;
    for (const auto& child : children_) {  // one of them takes part, with the others
      std::vector<const SchedulerNode*> together = others;
      if (!child->collect_parts(together)) return false;
      parts.insert(parts.end(), together.begin() + static_cast<int64_t>(others.size()),
                   together.end());
    }
  }
  parts.push_back(this);
  return true;
}

// Calls `visit` for all nodes of the tree, the children first.
template <class Visit>
void SchedulerNode::for_each_node(const Visit& visit) {
  for (const auto& child : children_) child->for_each_node(visit);
  visit(*this);
}

// Calls `visit` for the nodes that take part in the step that is under way.
template <class Visit>
void SchedulerNode::for_each_part(const Visit& visit) {
  for (SchedulerRow* row = first; row != nullptr; row = row->next) {
    visit(static_cast<SchedulerNode&>(*row));
  }
}

void SchedulerNode::read_column_(int32_t column, int64_t num_groups) {
  const auto items = py::reinterpret_steal<py::object>(
      PySequence_Fast(PyTuple_GET_ITEM(columns_.ptr(), column), "a column must be a sequence"));
  if (!items) throw py::error_already_set();
  const auto size = static_cast<int64_t>(PySequence_Fast_GET_SIZE(items.ptr()));
  if (size != num_groups) refuse_count(size, column_names_[column], num_groups);
  double* values = column_values_.data() + column * num_groups;
  for (int64_t g = 0; g < num_groups; ++g) {
    values[g] = number_in_(PySequence_Fast_GET_ITEM(items.ptr(), g), column * num_groups + g);
  }
}

// An entry of a column. What a tensor on the device holds is asked for once, and again when
// somebody has written into it: asking waits.
double SchedulerNode::number_in_(PyObject* item, int64_t place) {
  if (device_ == nullptr || !THPVariable_Check(item)) return to_double(item);
  const at::Tensor& tensor = THPVariable_Unpack(item);
  if (tensor.device() != device_->device().place() || tensor.is_inference()) {
    return read_number(tensor);
  }
  SeenNumber& seen = seen_numbers_[place];
  if (!seen.tensor.is_same(tensor) || seen.version != tensor._version()) {
    seen = {tensor, tensor._version(), read_number(tensor)};
  }
  return seen.value;
}

bool SchedulerNode::reads_column(int32_t column) const {
  const auto& [lr, momentum, is_past_the_end, total_steps] = moves_.front();
  return lr.from == column || lr.to == column || momentum.from == column || momentum.to == column;
}

// Reads what the moves need, and makes room for what they leave.
void SchedulerNode::prepare_moves_(int64_t num_groups) {
  SchedulerRow::num_groups = num_groups;
  last_lr_.resize(num_groups);
  last_lr = last_lr_.data();
  column_values_.resize(column_names_.size() * num_groups);
  columns = column_values_.data();
  for (int32_t column = 0; column < static_cast<int32_t>(column_names_.size()); ++column) {
    if (reads_column(column)) read_column_(column, num_groups);
  }
}

// Throws if a move is one that must not be made.
void SchedulerNode::check_moves(int64_t num_groups) const {
  if (composition != Composition::none) return;
  for (const Moves& one : moves_) {
    if (expressions_.empty() || (std::isfinite(one.lr.a) && std::isfinite(one.lr.b))) continue;
    PyErr_SetString(PyExc_FloatingPointError, "a function of the step has no finite value");
    throw py::error_already_set();
  }
  if (moves_.front().is_past_the_end) {
    PyErr_Format(
        PyExc_ValueError, "Tried to step %lld times. The specified number of total steps is %lld",
        static_cast<long long>(clock.last_epoch), static_cast<long long>(moves_[0].total_steps));
    throw py::error_already_set();
  }
  check_functions(num_groups);
}

void SchedulerNode::check_functions(int64_t num_groups) const {
  if (num_functions > 1 && static_cast<int64_t>(function_of_group_.size()) != num_groups) {
    refuse_count(function_of_group_.size(), "functions", num_groups);
  }
}

// Advances the clocks of all that take part, and turns them into moves.
void SchedulerNode::advance_(const ScheduleArgs& args) {
  ScheduleKernel::run(ScheduleKernel::kAdvance, args, 0, 1);
  for_each_part([](const SchedulerNode& part) {
    if (part.is_closed && part.composition != Composition::none) refuse_as_part(part.composition);
  });
  ScheduleKernel::run(ScheduleKernel::kPrepare, args, 0, 1);
  for_each_part([&](const SchedulerNode& part) { part.check_moves(args.tables->num_groups); });
}

// Whether one call can step the tree.
bool SchedulerNode::is_steppable() {
  if (composition == Composition::none) return true;
  if (num_edits_seen_ != num_edits) {
    std::vector<const SchedulerNode*> parts;
    is_steppable_ = collect_parts(parts);
    num_edits_seen_ = num_edits;
  }
  return is_steppable_;
}

bool SchedulerNode::step_(at::Tensor lr, at::Tensor hypers, const ScheduleCall& call) {
  if (!is_steppable()) return false;
  for_each_node([](SchedulerNode& node) {
    node.move_to_(nullptr);
    node.save_clock_();
  });
  StepTables tables;
  tables.lr = lr.mutable_data_ptr<double>();
  tables.hypers = hypers.mutable_data_ptr<double>();
  tables.num_groups = lr.numel();
  tables.num_hypers = hypers.size(1);
  ScheduleArgs args = args_of(call);
  args.tables = &tables;
  args.root = this;
  if (!call.metric.is_none()) args.metric_value = to_double(call.metric.ptr());
  try {
    advance_(args);
    for_each_part([&](SchedulerNode& part) { part.prepare_moves_(tables.num_groups); });
  } catch (...) {
    for_each_node([](SchedulerNode& node) { node.restore_clock_(); });
    throw;
  }
  ScheduleKernel::run(ScheduleKernel::kMove, args, 0, 1);
  return true;
}

// On a device

// Learns from the device what it alone knows.
void SchedulerNode::catch_up_() {
  if (!is_behind()) return;
  const SchedulerRow row = device_->read();
  clock = row.clock;
  SchedulerRow::num_moves = row.num_moves;
  device_->note_read_();
}

// Goes on on this device, or with null on the host.
void SchedulerNode::move_to_(Device* device) {
  if (device_ != nullptr && &device_->device() == device) return;
  if (device_ != nullptr) {
    catch_up_();
    last_lr_ = device_->read_last_lr();
    device_.reset();
  }
  if (device == nullptr) return;
  const SchedulerRow& row = *this;
  device_ = std::make_shared<DeviceScheduler>(*device, row);
  functions_are_put_ = false;
}

// Sends what the device does not know yet, but for the clock. `knows_moves`: the columns that the
// step reads are known; any other that does not fit the groups is not read.
void SchedulerNode::put_on_device_(int64_t num_groups, bool knows_moves) {
  column_values_.resize(column_names_.size() * num_groups);
  columns = column_values_.data();
  for (int32_t column = 0; column < static_cast<int32_t>(column_names_.size()); ++column) {
    const auto size = PyObject_Size(PyTuple_GET_ITEM(columns_.ptr(), column));
    if (size < 0) throw py::error_already_set();
    if (size == num_groups || (knows_moves ? reads_column(column) : size > 0)) {
      read_column_(column, num_groups);
    } else {
      std::fill_n(column_values_.begin() + column * num_groups, num_groups,
                  std::numeric_limits<double>::quiet_NaN());
    }
  }
  check_functions(num_groups);
  std::vector<SchedulerRow*> rows;
  for (const auto& child : children_) rows.push_back(child->device_->row());
  if (!functions_are_put_) device_->put_functions_(functions_, expressions_);
  functions_are_put_ = true;
  device_->put_settings_(*this, static_cast<int64_t>(column_names_.size()), num_groups, rows);
}

void SchedulerNode::refuse_capture(const std::string& reason) const {
  if (device_ == nullptr || !device_->device().is_capturing()) return;
  throw std::runtime_error("the step of a scheduler cannot be captured in a graph, because " +
                           reason);
}

// Throws if a replay could come to what only a host can refuse.
void SchedulerNode::check_capture() const {
  if (composition != Composition::sequential) return;
  for (size_t i = 1; i < children_.size(); ++i) {
    if (children_[i]->composition != Composition::none) refuse_as_part(children_[i]->composition);
  }
}

// Whether there is a number, or none at all, and a function for each group.
bool SchedulerNode::fits(int64_t num_groups) const {
  const auto has_numbers = [&](const py::handle& column) {
    const auto size = static_cast<int64_t>(py::len(column));
    return size == num_groups || size == 0;
  };
  const bool has_functions =
      num_functions == 1 || static_cast<int64_t>(function_of_group_.size()) == num_groups;
  return has_functions && std::all_of(columns_.begin(), columns_.end(), has_numbers);
}

void SchedulerNode::materialize_(DeviceTable& table) {
  bool is_ready = true;
  for_each_node([&](SchedulerNode& node) {
    is_ready &= node.was_captured() || node.fits(table.num_groups());
  });
  if (!is_ready) return;
  for_each_node([&](SchedulerNode& node) {
    node.move_to_(&table.device());
    node.put_on_device_(table.num_groups(), /*knows_moves=*/false);
  });
}

bool SchedulerNode::step_on_(DeviceTable& table, const ScheduleCall& call) {
  if (!is_steppable()) return false;
  Device& device = table.device();
  const bool is_capture = device.is_capturing();
  table.expect_moves_();
  table.flush_();
  table.begin_launches_();

  StepTables host_tables;
  host_tables.num_groups = table.num_groups();
  ScheduleArgs args = args_of(call);
  args.tables = &host_tables;
  args.root = this;
  const at::Tensor metric = find_metric_on(device, call.metric);
  bool host_follows = !metric.defined() && !call.is_jump;
  if (metric.defined()) {
    args.metric = metric.const_data_ptr();
    find_storage(metric.scalar_type(), args.metric_dtype);
  } else if (!call.metric.is_none()) {
    args.metric_value = to_double(call.metric.ptr());
  }
  for_each_node([&](SchedulerNode& node) {
    node.move_to_(&device);
    node.save_clock_();
    host_follows &= !node.is_behind();
    if (is_capture) node.check_capture();
  });
  if (call.epoch.has_value()) {
    refuse_capture("every replay would go to the epoch of the call; call step() without one");
  }
  if (!metric.defined() && !call.metric.is_none()) {
    refuse_capture("every replay would read the metric of the call; give a tensor on " +
                   device.place().str());
  }
  try {
    if (host_follows) advance_(args);
    for_each_node([&](SchedulerNode& node) {
      node.put_on_device_(table.num_groups(), host_follows && !is_capture);
    });
    for_each_node([](SchedulerNode& node) { node.device_->begin_launch_(); });
    if (metric.defined()) device.record_stream(metric);
    args.tables = table.step_tables();
    args.root = device_->row();
    device.launch(args);
  } catch (...) {
    for_each_node([](SchedulerNode& node) { node.restore_clock_(); });
    throw;
  }
  device_->metric = metric;
  if (is_capture) {
    for_each_node([](SchedulerNode& node) { node.restore_clock_(); });
  } else if (host_follows) {
    for_each_part([](SchedulerNode& part) { ++part.SchedulerRow::num_moves; });
  }
  for_each_node([&](SchedulerNode& node) {
    if (is_capture && !node.was_captured()) table.keep_(node.device_);
    node.device_->note_step_(is_capture, host_follows);
  });
  return true;
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
      .def(py::init<const std::string&, std::vector<std::string>, bool>(), py::arg("kind"),
           py::arg("column_names"), py::arg("counts_steps"))
      .def("read", &Node::read, py::arg("name"))
      .def("write_", &Node::write_, py::arg("name"), py::arg("value"))
      .def("configure_", &Node::configure_, py::arg("parameters"), py::arg("columns"),
           py::arg("momentum_column"))
      .def("set_children_", &Node::set_children_, py::arg("children"))
      .def("set_table_", &Node::set_table_, py::arg("table"))
      .def("set_functions_", &Node::set_functions_, py::arg("functions"))
      .def("set_function_values_", &Node::set_function_values_, py::arg("values"))
      .def("set_function_of_group_", &Node::set_function_of_group_, py::arg("function_of_group"))
      .def("refuse_capture", &Node::refuse_capture, py::arg("reason"))
      .def_property_readonly("was_captured", &Node::was_captured)
      .def("read_last_lr", &Node::read_last_lr)
      .def_property_readonly("num_moves", [](Node& node) { return node.num_moves(); })
      .def_property_readonly("has_only_begun", &Node::has_only_begun)
      .def_property_readonly("may_have_moved", &Node::may_have_moved);

  // One step of a scheduler and of those that it is made of; returns whether it was done.
  module.def(
      "schedule_",
      [](Node& node, at::Tensor lr, at::Tensor hypers, const c10::optional<double>& epoch,
         bool is_initial, bool is_jump, bool counts, py::object metric) {
        return node.step_(std::move(lr), std::move(hypers),
                          {epoch, is_initial, is_jump, counts, std::move(metric)});
      },
      py::arg("node"), py::arg("lr"), py::arg("hypers"), py::arg("epoch"), py::arg("is_initial"),
      py::arg("is_jump"), py::arg("counts"), py::arg("metric"));

  // The same on a device.
  module.def(
      "schedule_on_",
      [](Node& node, DeviceTable& table, const c10::optional<double>& epoch, bool is_initial,
         bool is_jump, bool counts, py::object metric) {
        return node.step_on_(table, {epoch, is_initial, is_jump, counts, std::move(metric)});
      },
      py::arg("node"), py::arg("table"), py::arg("epoch"), py::arg("is_initial"),
      py::arg("is_jump"), py::arg("counts"), py::arg("metric"));
  module.def(
      "materialize_scheduler_", [](Node& node, DeviceTable& table) { node.materialize_(table); },
      py::arg("node"), py::arg("table"));

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
