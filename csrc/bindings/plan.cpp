#include "bindings/plan.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/Parallel.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "bindings/layout.h"
#include "bindings/step_clock.h"
#include "bindings/tensor_access.h"
#include "engine/cpu_engine.h"
#include "engine/tuning.h"

namespace fusedlr {
namespace {

struct RuleFacts {
  const char* name;
  int states;
  bool counts_steps;
  std::vector<std::string> hypers;
};

template <class... Rule>
std::vector<RuleFacts> facts_of(const std::tuple<Rule...>*) {
  return {RuleFacts{
      Rule::kName, Rule::kStates, Rule::kCountsSteps,
      std::vector<std::string>(std::begin(Rule::Hyper::kNames), std::end(Rule::Hyper::kNames))}...};
}

const std::vector<RuleFacts>& rule_facts() {
  static const auto facts = facts_of(static_cast<const Rules*>(nullptr));
  return facts;
}

int32_t find_rule(const std::string& name) {
  for (size_t rule = 0; rule < rule_facts().size(); ++rule) {
    if (name == rule_facts()[rule].name) return static_cast<int32_t>(rule);
  }
  throw py::value_error("unknown rule " + name);
}

int64_t num_reals(const at::Tensor& tensor) {
  return tensor.numel() * (tensor.is_complex() ? 2 : 1);
}

template <class... Part>
[[noreturn]] void fail(const Part&... part) {
  std::ostringstream message;
  (message << ... << part);
  throw std::runtime_error(message.str());
}

}  // namespace

Plan::Plan(py::list groups, at::Tensor lr, at::Tensor hypers, std::string sparse_error,
           int64_t capacity, c10::Device place, std::shared_ptr<DeviceTable> table)
    : lr_(std::move(lr)),
      hypers_(std::move(hypers)),
      sparse_error_(std::move(sparse_error)),
      place_(place),
      table_(std::move(table)) {
  if (table_ != nullptr) device_plan_ = std::make_unique<DevicePlan>(*table_);
  tables_.num_hypers = hypers_.size(1);
  tables_.rules.assign(lr_.numel(), 0);
  tables_.tensors.reserve(capacity);
  tensors_.reserve(capacity);
  findings_.reserve(capacity);
  watched_items_.reserve(groups.size() + capacity);
  watch_(std::move(groups));
}

void Plan::check_overlap(const at::Tensor& param, size_t index) const {
  if (at::has_internal_overlap(param) != at::MemOverlap::Yes) return;
  fail(name_of(index), " has elements that share memory (sizes ", param.sizes(), ", strides ",
       param.strides(), "); clone() it before optimizing it");
}

std::string Plan::name_of(size_t index) const {
  return "param_groups[" + std::to_string(tables_.tensors[index].group) + "]['params'][" +
         std::to_string(tensors_[index].position) + "]";
}

void Plan::watch_(py::list list) {
  const size_t first = watched_items_.size();
  for (const py::handle item : list) {
    watched_items_.push_back(py::reinterpret_borrow<py::object>(item));
  }
  watched_.push_back({std::move(list), first, watched_items_.size() - first});
}

int Plan::traverse(visitproc visit, void* arg) const {
  for (const WatchedList& watched : watched_) Py_VISIT(watched.list.ptr());
  for (const py::object& item : watched_items_) Py_VISIT(item.ptr());
  for (const Sharding& sharding : shardings_) {
    Py_VISIT(sharding.param_spec.ptr());
    Py_VISIT(sharding.grad_spec.ptr());
  }
  return 0;
}

void Plan::clear_() {
  tensors_.clear();
  tables_.tensors.clear();
  // Emptied before anything is released, which may run code that looks at this plan.
  const std::vector<WatchedList> lists = std::exchange(watched_, {});
  const std::vector<py::object> items = std::exchange(watched_items_, {});
  const std::vector<Sharding> shardings = std::exchange(shardings_, {});
}

// Remembers that the parameter of row `index`, the last one, is a DTensor.
void Plan::add_sharding_(size_t index, PyObject* param) {
  TensorRecord& record = tensors_[index];
  slots_ = DTensorSlots(Py_TYPE(param));
  const at::Tensor* shard = slots_.local_of(param);
  if (shard == nullptr) fail("the local tensor of ", name_of(index), " is no plain tensor");
  if (shard->device() != place_) {
    fail("the local tensor of ", name_of(index), " is on ", shard->device(), ", the DTensor on ",
         place_, "; move the model with its to()");
  }
  shardings_.resize(index + 1);
  const auto spec = py::reinterpret_borrow<py::object>(slots_.spec_of(param));
  shardings_[index] = {param, spec, spec};
  record.is_sharded = true;
}

// What engines see of a parameter or a state tensor of row `index` that was looked at.
const at::Tensor& Plan::local(size_t index, const at::Tensor& tensor) const {
  if (!tensors_[index].is_sharded) return tensor;
  return *slots_.local_of(slots_.object_of(*tensor.unsafeGetTensorImpl()));
}

// State has to lie where its parameter lies.
void Plan::check_placement(size_t index, size_t number, const at::Tensor& buffer) const {
  const bool is_sharded = tensors_[index].is_sharded;
  if (is_wrapper(buffer) != is_sharded) {
    fail("state tensor ", number, " of ", name_of(index), is_sharded ? " is no" : " is a",
         " DTensor, unlike the parameter; load the state with "
         "torch.distributed.checkpoint.state_dict.set_optimizer_state_dict, or delete it from "
         "optimizer.state");
  }
  if (!is_sharded) return;
  PyObject* object = slots_.object_of(*buffer.unsafeGetTensorImpl());
  if (object == nullptr || slots_.local_of(object) == nullptr) {
    fail("state tensor ", number, " of ", name_of(index), " has no plain local tensor");
  }
  PyObject* spec = slots_.spec_of(object);
  PyObject* param_spec = shardings_[index].param_spec.ptr();
  if (!is_placed_alike(spec, param_spec)) {
    fail("state tensor ", number, " of ", name_of(index), " has ", describe_spec(spec),
         ", the parameter ", describe_spec(param_spec),
         "; redistribute() it, or delete it from optimizer.state");
  }
}

void Plan::add_params_(int32_t group, const std::string& rule, const py::list& params,
                       const std::vector<int32_t>& positions) {
  tables_.rules[group] = find_rule(rule);
  watch_(params);
  for (const int32_t position : positions) {
    PyObject* item = PyList_GET_ITEM(params.ptr(), position);
    if (!THPVariable_Check(item)) throw py::type_error("a parameter must be a tensor");
    TensorRecord record;
    record.param = &THPVariable_Unpack(item);
    record.position = position;
    TensorRow row;
    row.group = group;
    record.has_state = rule_facts()[tables_.rules[group]].states == 0;
    tensors_.push_back(record);
    findings_.push_back(Finding::no_grad);
    tables_.tensors.push_back(row);
    const size_t index = tensors_.size() - 1;
    if (is_wrapper(*record.param)) add_sharding_(index, item);
    const at::Tensor& param = local(index, *record.param);
    if (!find_storage(param.scalar_type(), tables_.tensors[index].param_dtype)) {
      fail(name_of(index), " has dtype ", param.dtype(), ", which this engine cannot update");
    }
    TensorRecord& added = tensors_[index];
    added.param_type = added.state_type = param.dtype();
    added.reals_per_element = param.is_complex() ? 2 : 1;
    tables_.tensors[index].numel = num_reals(param);
    check_overlap(param, index);
  }
  if (!shardings_.empty()) shardings_.resize(tensors_.size());
}

void Plan::set_state_(int64_t index, const c10::optional<at::Tensor>& step,
                      const std::vector<at::Tensor>& state) {
  TensorRecord& record = tensors_.at(index);
  TensorRow& row = tables_.tensors[index];
  const RuleFacts& rule = rule_facts()[tables_.rules[row.group]];
  if (static_cast<int>(state.size()) != rule.states || step.has_value() != rule.counts_steps) {
    fail(name_of(index), ": rule ", rule.name, " needs ", rule.states, " state tensors");
  }
  const at::Tensor& param = local(index, *record.param);
  for (size_t i = 0; i < state.size(); ++i) {
    check_placement(index, i, state[i]);
    const at::Tensor& buffer = local(index, state[i]);
    if (buffer.sizes() != param.sizes() || buffer.device() != param.device() ||
        buffer.layout() != at::kStrided || buffer.is_complex() != param.is_complex() ||
        buffer.scalar_type() != state[0].scalar_type() ||
        !find_storage(buffer.scalar_type(), row.state_dtype)) {
      fail("state tensor ", i, " of ", name_of(index), " has shape ", buffer.sizes(), ", dtype ",
           buffer.scalar_type(), " on ", buffer.device(),
           ", which does not fit the parameter (shape ", param.sizes(), ", dtype ",
           record.param_type, " on ", param.device(),
           "); load or build state for this parameter, or delete it from optimizer.state");
    }
    if (at::has_internal_overlap(buffer) == at::MemOverlap::Yes) {
      fail("state tensor ", i, " of ", name_of(index),
           " has elements that share memory; clone() it");
    }
    record.state[i] = state[i];
    record.state_type = buffer.dtype();
  }
  record.num_states = static_cast<int8_t>(state.size());
  record.has_state = true;
  if (!step.has_value()) return;
  const bool is_scalar = step->numel() == 1 && step->device() == place_ && !is_wrapper(*step);
  if (!is_scalar || (step->scalar_type() != at::kFloat && step->scalar_type() != at::kDouble)) {
    fail("state 'step' of ", name_of(index),
         " must be a plain tensor of one float32 or float64 on ", place_, ", not ",
         class_name(*step), " ", step->scalar_type(), " of shape ", step->sizes(), " on ",
         step->device());
  }
  record.step = *step;
  record.step_type = step->dtype();
  find_storage(step->scalar_type(), row.step_dtype);
}

std::vector<std::tuple<int64_t, int32_t, int32_t>> Plan::missing() const {
  std::vector<std::tuple<int64_t, int32_t, int32_t>> rows;
  for (const int64_t index : missing_) {
    rows.emplace_back(index, tables_.tensors[index].group, tensors_[index].position);
  }
  return rows;
}

int32_t Plan::find_layout_(size_t index, const at::Tensor& grad) {
  const TensorRecord& record = tensors_[index];
  const at::Tensor& param = local(index, *record.param);
  bool all_contiguous = param.is_contiguous() && grad.is_contiguous();
  for (int i = 0; i < record.num_states; ++i) {
    all_contiguous = all_contiguous && local(index, record.state[i]).is_contiguous();
  }
  if (all_contiguous) return -1;

  std::vector<at::Tensor> operands{param, grad};
  for (int i = 0; i < record.num_states; ++i) operands.push_back(local(index, record.state[i]));
  // The key of the cache: the sizes, then the strides of each operand.
  std::vector<int64_t> strides(param.sizes().begin(), param.sizes().end());
  for (const at::Tensor& operand : operands) {
    if (operand.defined()) {
      strides.insert(strides.end(), operand.strides().begin(), operand.strides().end());
    }
  }
  CachedLayout& cached = cached_layouts_[index];
  if (cached.strides != strides) {
    check_overlap(param, index);
    auto layout = strided_layout(operands);
    cached.in_order = !layout.has_value();
    if (layout.has_value()) {
      if (cached.place < 0) {
        cached.place = static_cast<int32_t>(tables_.layouts.size());
        tables_.layouts.emplace_back();
      }
      tables_.layouts[cached.place] = std::move(*layout);
    }
    cached.strides = std::move(strides);
  }
  return cached.in_order ? -1 : cached.place;
}

// Whether the gradient of a DTensor lies in this process where its parameter lies.
bool Plan::is_placed_as_param_(size_t index, const at::Tensor& grad) {
  Sharding& sharding = shardings_[index];
  PyObject* object = slots_.object_of(*grad.unsafeGetTensorImpl());
  if (slots_.local_of(object) == nullptr) return false;  // it is still under way
  PyObject* spec = slots_.spec_of(object);
  if (!is_placed_alike(spec, sharding.param_spec.ptr())) return false;
  sharding.grad_spec = py::reinterpret_borrow<py::object>(spec);
  return true;
}

void Plan::check_dtype_(size_t index, const at::Tensor& grad, const at::Tensor& param) {
  if (grad.is_complex() == param.is_complex() &&
      find_storage(grad.scalar_type(), tables_.tensors[index].grad_dtype)) {
    return;
  }
  fail("the gradient of ", name_of(index), " has dtype ", grad.scalar_type(), ", the parameter ",
       param.dtype(), "; cast the gradient to a floating dtype");
}

// Checks a gradient against its parameter, and finds how to walk them together.
void Plan::check_grad_(size_t index, const at::Tensor& grad) {
  const TensorRecord& record = tensors_[index];
  if (grad.layout() != at::kStrided) {
    fail(sparse_error_, " (", name_of(index), " has a gradient of layout ", grad.layout(), ")");
  }
  if (grad.device() != record.param->device()) {
    fail("the gradient of ", name_of(index), " is on ", grad.device(), ", the parameter on ",
         record.param->device(), "; move the gradient to the parameter's device");
  }
  if (grad.sizes() != record.param->sizes()) {
    fail("the gradient of ", name_of(index), " has shape ", grad.sizes(), ", the parameter ",
         record.param->sizes(), "; set .grad = None after the parameter has changed its shape");
  }
  check_dtype_(index, grad, *record.param);
  if (!record.is_sharded && !is_wrapper(grad)) {
    check_local_grad_(index, grad);
    return;
  }
  check_class(index, grad);
  if (record.is_sharded && is_placed_as_param_(index, grad)) {
    check_local_grad_(index, local(index, grad));
  } else {
    scattered_.push_back(index);
  }
}

// A gradient that hides its elements has to be a DTensor like its parameter, or the result of a
// collective operation that is under way.
void Plan::check_class(size_t index, const at::Tensor& grad) const {
  const TensorRecord& record = tensors_[index];
  if (!record.is_sharded) {
    if (can_be_waited_for(grad)) return;
    fail("the gradient of ", name_of(index), " is a ", class_name(grad),
         ", the parameter a plain tensor; make the parameter a DTensor, too "
         "(torch.distributed.tensor.distribute_tensor), or the gradient a plain tensor (to_local, "
         "full_tensor)");
  }
  PyObject* object = slots_.object_of(*grad.unsafeGetTensorImpl());
  if (object == nullptr) {
    fail("the gradient of ", name_of(index), " is a ", class_name(grad),
         ", the parameter a DTensor; "
         "make the gradient a DTensor, too (torch.distributed.tensor.distribute_tensor)");
  }
  PyObject* spec = slots_.spec_of(object);
  PyObject* param_spec = shardings_[index].param_spec.ptr();
  if (!is_on_same_mesh(spec, param_spec)) {
    fail("the gradient of ", name_of(index), " has ", describe_spec(spec), ", the parameter ",
         describe_spec(param_spec), "; bring the gradient to the mesh of the parameter");
  }
}

void Plan::collect_grads_() {
  if (scattered_.empty()) return;
  // Meanwhile Python runs: what was gathered must stay.
  for (const int32_t index : tables_.active) {
    held_grads_.push_back(tensors_[index].param->unsafeGetTensorImpl()->grad());
  }
  for (const size_t index : scattered_) {
    const at::Tensor& grad = tensors_[index].param->unsafeGetTensorImpl()->grad();
    const at::Tensor collected = tensors_[index].is_sharded
                                     ? redistributed(grad, shardings_[index].param_spec.ptr())
                                     : waited_for(grad);
    held_grads_.push_back(collected);
    check_local_grad_(index, collected);
    tensors_[index].grad_keys = c10::DispatchKeySet();
  }
  scattered_.clear();
}

// The same for what engines see of a gradient.
void Plan::check_local_grad_(size_t index, const at::Tensor& grad) {
  TensorRecord& record = tensors_[index];
  TensorRow& row = tables_.tensors[index];
  const at::Tensor& param = local(index, *record.param);
  if (grad.sizes() != param.sizes() || grad.device() != param.device()) {
    fail("the gradient of ", name_of(index), " has a local tensor of shape ", grad.sizes(), " on ",
         grad.device(), ", the parameter one of ", param.sizes(), " on ", param.device(),
         "; set .grad = None after the parameter was sharded anew");
  }
  check_dtype_(index, grad, param);
  const at::Tensor* readable = &grad;
  if (grad.is_conj() || grad.is_neg()) {
    held_grads_.push_back(grad.resolve_conj().resolve_neg());
    readable = &held_grads_.back();
  }
  row.layout = find_layout_(index, *readable);
  // Engines only read through this pointer; the table has one type for all operands.
  row.data[kGrad] = const_cast<void*>(readable->const_data_ptr());
  const bool is_plain = readable == &grad && row.layout < 0;
  record.grad_keys = is_plain ? grad.key_set() : c10::DispatchKeySet();
  record.grad_type = grad.dtype();
}

// Starts to load what look_at_ reads of a row that comes later.
inline void Plan::prefetch_row(size_t index) const {
  const TensorRecord& record = tensors_[index];
  prefetch(*record.param->unsafeGetTensorImpl());
  for (int i = 0; i < record.num_states; ++i) prefetch(*record.state[i].unsafeGetTensorImpl());
  prefetch(*record.step.unsafeGetTensorImpl());
}

// The local tensor of a DTensor, or null.
inline const c10::TensorImpl* Plan::local_shard(const c10::TensorImpl& dtensor) const {
  PyObject* object = slots_.object_of(dtensor);
  const at::Tensor* shard = object == nullptr ? nullptr : slots_.local_of(object);
  return shard == nullptr ? nullptr : shard->unsafeGetTensorImpl();
}

// What this step finds in a row. Touches this row only, and no reference counts: rows can be looked
// at in parallel. Flattened, because torch's accessors are a few instructions each, and 30 calls of
// them take as long as what they read.
template <bool is_sharded>
[[gnu::flatten]] Plan::Finding Plan::look_at_row_(size_t index, bool needs_grad) {
  if (index + kPrefetchDistance < tensors_.size()) prefetch_row(index + kPrefetchDistance);
  const TensorRecord& record = tensors_[index];
  const c10::TensorImpl* param = record.param->unsafeGetTensorImpl();
  const c10::TensorImpl* grad = grad_of(*param);
  if (grad == nullptr && needs_grad) return Finding::no_grad;
  if constexpr (is_sharded) {
    const Sharding& sharding = shardings_[index];
    if (slots_.spec_of(sharding.param) != sharding.param_spec.ptr()) return Finding::stale;
    param = local_shard(*param);
    if (param == nullptr) return Finding::stale;
    if (grad != nullptr) {
      PyObject* object = slots_.object_of(*grad);
      const bool is_placed_as_last_grad =
          object != nullptr && slots_.spec_of(object) == sharding.grad_spec.ptr();
      grad = is_placed_as_last_grad ? local_shard(*grad) : nullptr;
    }
  }
  TensorRow& row = tables_.tensors[index];
  if (param->dtype() != record.param_type || param->device() != place_ ||
      param->numel() * record.reals_per_element != row.numel) {
    return Finding::stale;
  }
  row.data[kParam] = data_of(*param);
  const c10::IntArrayRef sizes = param->sizes();
  bool all_contiguous = param->is_contiguous();
  for (int i = 0; i < record.num_states; ++i) {
    const c10::TensorImpl* buffer = record.state[i].unsafeGetTensorImpl();
    if constexpr (is_sharded) buffer = local_shard(*buffer);
    if (buffer == nullptr || buffer->dtype() != record.state_type || buffer->device() != place_ ||
        !has_sizes(*buffer, sizes)) {
      return Finding::stale;
    }
    row.data[kFirstState + i] = data_of(*buffer);
    all_contiguous &= buffer->is_contiguous();
  }
  if (record.step.defined()) {
    const c10::TensorImpl& step = *record.step.unsafeGetTensorImpl();
    if (step.dtype() != record.step_type || step.device() != place_ || step.numel() != 1) {
      return Finding::stale;
    }
    row.step = data_of(step);
  }
  // Whether the gradient needs no check beyond those that the last one of this row has passed.
  const bool is_like_last_grad = grad != nullptr && grad->key_set() == record.grad_keys &&
                                 grad->dtype() == record.grad_type && grad->is_contiguous() &&
                                 all_contiguous && has_sizes(*grad, sizes);
  if (!is_like_last_grad) return Finding::unusual_grad;
  row.layout = -1;
  // Engines only read through this pointer; the table has one type for all operands.
  row.data[kGrad] = const_cast<void*>(const_data_of(*grad));
  return record.has_state ? Finding::plain_grad : Finding::needs_state;
}

inline Plan::Finding Plan::look_at_(size_t index, bool needs_grad) {
  return tensors_[index].is_sharded ? look_at_row_<true>(index, needs_grad)
                                    : look_at_row_<false>(index, needs_grad);
}

bool Plan::has_changed(const WatchedList& watched) const {
  PyObject* list = watched.list.ptr();
  if (PyList_GET_SIZE(list) != static_cast<Py_ssize_t>(watched.size)) return true;
  for (size_t i = 0; i < watched.size; ++i) {
    if (PyList_GET_ITEM(list, i) != watched_items_[watched.first + i].ptr()) return true;
  }
  return false;
}

Readiness Plan::gather_() {
  // Where the table lies may change behind the tensor, as in lr.share_memory_().
  tables_.lr = lr_.const_data_ptr<double>();
  tables_.hypers = hypers_.const_data_ptr<double>();
  const int64_t num_rows = num_tensors();
  const auto num_lists = static_cast<int64_t>(watched_.size());
  std::atomic<bool> lists_have_changed = num_rows == 0 && groups_have_changed();
  std::atomic<bool> active_is_current = std::exchange(active_is_current_, false);
  at::parallel_for(0, num_rows, kGatherGrain, [&](int64_t first, int64_t last) {
    bool all_as_before = true;
    for (int64_t index = first; index < last; ++index) {
      const Finding finding = look_at_(index, /*needs_grad=*/true);
      all_as_before &= finding == findings_[index] && finding <= Finding::plain_grad;
      findings_[index] = finding;
    }
    if (!all_as_before) active_is_current = false;
    // The same share of the lists. (Looking at a row first is safe: a list that has changed since
    // still keeps the row's tensor alive here.)
    for (int64_t i = first * num_lists / num_rows; i < last * num_lists / num_rows; ++i) {
      if (has_changed(watched_[i])) lists_have_changed = true;
    }
  });
  if (lists_have_changed) return Readiness::stale;
  if (!active_is_current) {
    const Readiness readiness = activate_rows_(/*assumes_grads=*/false);
    if (readiness != Readiness::ready) return readiness;
  }
  active_is_current_ = true;
  return Readiness::ready;
}

bool Plan::lists_have_changed() const {
  return std::any_of(watched_.begin(), watched_.end(),
                     [&](const WatchedList& watched) { return has_changed(watched); });
}

Readiness Plan::gather_all_() {
  active_is_current_ = false;
  if (lists_have_changed()) return Readiness::stale;
  for (size_t index = 0; index < tensors_.size(); ++index) {
    const at::Tensor& param = *tensors_[index].param;
    const Finding finding = look_at_(index, /*needs_grad=*/false);
    if (finding == Finding::stale) return Readiness::stale;
    findings_[index] = param.requires_grad() ? Finding::unusual_grad : Finding::no_grad;
  }
  const Readiness readiness = activate_rows_(/*assumes_grads=*/true);
  // What a redistributed gradient will look like; the collective itself is left to the step.
  for (const size_t index : scattered_)
    check_local_grad_(index, local(index, *tensors_[index].param));
  scattered_.clear();
  return readiness;
}

// Goes through what the step has found: checks unusual gradients, lists the rows that the step
// updates and those that lack state.
Readiness Plan::activate_rows_(bool assumes_grads) {
  missing_.clear();
  held_grads_.clear();
  scattered_.clear();
  std::vector<int32_t>& active = tables_.active;
  size_t num_active = 0;
  for (size_t index = 0; index < tensors_.size(); ++index) {
    const Finding finding = findings_[index];
    if (finding == Finding::no_grad) continue;
    if (finding == Finding::stale) return Readiness::stale;
    bool has_state = finding != Finding::needs_state;
    if (finding == Finding::unusual_grad) {
      const at::Tensor& param = *tensors_[index].param;
      const at::Tensor& grad = param.unsafeGetTensorImpl()->grad();
      check_grad_(index, assumes_grads && !grad.defined() ? param : grad);
      has_state = tensors_[index].has_state;
    }
    if (!has_state) missing_.push_back(static_cast<int64_t>(index));
    if (num_active == active.size()) active.push_back(-1);
    if (active[num_active] != static_cast<int32_t>(index)) {
      active[num_active] = static_cast<int32_t>(index);
      chunks_are_stale_ = true;
    }
    ++num_active;
  }
  if (num_active != active.size()) {
    active.resize(num_active);
    chunks_are_stale_ = true;
  }
  if (chunks_are_stale_ && table_ == nullptr) cpu::build_chunks_(tables_);
  chunks_are_stale_ = false;
  return missing_.empty() ? Readiness::ready : Readiness::needs_state;
}

inline void Plan::bump_version(size_t index) const {
  const TensorRecord& record = tensors_[index];
  record.param->unsafeGetTensorImpl()->bump_version();
  if (record.is_sharded) local(index, *record.param).unsafeGetTensorImpl()->bump_version();
}

void Plan::run_on_device_(bool begins, bool ends) {
  device_plan_->run_(tables_, begins, ends);
  for (const int32_t index : tables_.active) bump_version(index);
  held_grads_.clear();
}

void Plan::run_() {
  const py::gil_scoped_release without_gil;
  cpu::prologue_(tables_);
  const auto num_tasks = static_cast<int64_t>(tables_.task_begin.size()) - 1;
  at::parallel_for(0, num_tasks, 1, [&](int64_t first, int64_t last) {
    if (first == last) return;
    cpu::update_(tables_, first, last);
    // Autograd must notice that a tensor which it saved for backward has changed.
    const auto [begin, end] = cpu::tensors_that_begin_in(tables_, first, last);
    for (size_t k = begin; k < end; ++k) bump_version(tables_.active[k]);
  });
  held_grads_.clear();
}

int64_t Plan::table_bytes() const {
  const auto bytes = [](const auto& table) { return table.capacity() * sizeof(table[0]); };
  const size_t total = bytes(tables_.tensors) + bytes(tables_.rules) + bytes(tables_.active) +
                       bytes(tables_.chunk_begin) + bytes(tables_.task_begin) +
                       bytes(tables_.without_own_task) + bytes(tensors_) + bytes(findings_) +
                       bytes(watched_) + bytes(watched_items_) + bytes(shardings_) +
                       (device_plan_ == nullptr ? 0 : device_plan_->table_bytes());
  return static_cast<int64_t>(total);
}

namespace {

// Lets Python's cycle collector see through a plan.
const py::custom_type_setup collectable([](PyHeapTypeObject* heap_type) {
  PyTypeObject* type = &heap_type->ht_type;
  type->tp_flags |= Py_TPFLAGS_HAVE_GC;
  type->tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    if (!py::detail::is_holder_constructed(self)) return 0;
    return py::cast<Plan&>(py::handle(self)).traverse(visit, arg);
  };
  type->tp_clear = [](PyObject* self) {
    py::cast<Plan&>(py::handle(self)).clear_();
    return 0;
  };
});

// Gathers all plans; returns what is in the way of a step, or null.
const char* gather_(const std::vector<Plan*>& plans, Readiness (Plan::*gather)()) {
  bool needs_state = false;
  for (Plan* plan : plans) {
    const Readiness readiness = (plan->*gather)();
    if (readiness == Readiness::stale) return "stale";
    needs_state |= readiness == Readiness::needs_state;
  }
  return needs_state ? "needs_state" : nullptr;
}

// One whole step over the plans of an optimizer: everything is gathered and checked before anything
// moves, schedules and clock included. Returns what is in the way of the step, or nothing.
const char* step_(const std::vector<Plan*>& plans, StepClock& clock) {
  if (const char* obstacle = gather_(plans, &Plan::gather_)) return obstacle;
  for (Plan* plan : plans) plan->collect_grads_();
  for (Plan* plan : plans) {
    if (plan->table() != nullptr) plan->prepare_device_();
  }
  clock.begin_();
  if (!clock.is_skipped()) {
    for (Plan* plan : plans) {
      if (plan->table() == nullptr) {
        plan->run_();
      } else {
        plan->table()->flush_();
        plan->run_on_device_(/*begins=*/false, /*ends=*/false);
      }
    }
  }
  if (clock.ends_with_plans) clock.finish_();
  return nullptr;
}

// The same where all parameters are on devices that run kernels. The plans on the device of `clock`
// come first; other devices take over its numbers.
const char* step_on_device_(const std::vector<Plan*>& plans, DeviceTable& clock) {
  if (const char* obstacle = gather_(plans, &Plan::gather_)) return obstacle;
  for (Plan* plan : plans) plan->collect_grads_();
  for (Plan* plan : plans) plan->prepare_device_();
  clock.flush_();
  const auto is_elsewhere = [&](const Plan* plan) { return plan->table().get() != &clock; };
  const auto others = std::find_if(plans.begin(), plans.end(), is_elsewhere);
  if (others != plans.end() && clock.device().is_capturing()) {
    throw std::runtime_error(
        "the step of an optimizer with parameters on several devices cannot be captured in a "
        "graph: use an optimizer for each device");
  }
  for (auto plan = plans.begin(); plan != others; ++plan) {
    const bool is_last = plan + 1 == others;
    (*plan)->run_on_device_(plan == plans.begin(), is_last && clock.ends_with_plans);
  }
  const DeviceTable* following = nullptr;
  for (auto plan = others; plan != plans.end(); ++plan) {
    DeviceTable& table = *(*plan)->table();
    if (&table != following) table.follow_(clock);
    following = &table;
    (*plan)->run_on_device_(/*begins=*/false, /*ends=*/false);
  }
  return nullptr;
}

// Prepares the next step as far as it can be, without making it.
const char* materialize_(const std::vector<Plan*>& plans) {
  if (const char* obstacle = gather_(plans, &Plan::gather_all_)) return obstacle;
  for (Plan* plan : plans) {
    if (plan->table() == nullptr) continue;
    plan->prepare_device_();
    plan->table()->flush_();
  }
  return nullptr;
}

}  // namespace

void bind_plan(py::module_& module) {
  py::class_<Plan>(module, "Plan", collectable)
      .def(py::init<py::list, at::Tensor, at::Tensor, std::string, int64_t, c10::Device,
                    std::shared_ptr<DeviceTable>>(),
           py::arg("groups"), py::arg("lr"), py::arg("hypers"), py::arg("sparse_error"),
           py::arg("capacity"), py::arg("place"), py::arg("table"))
      .def("groups_have_changed", &Plan::groups_have_changed)
      .def("add_params_", &Plan::add_params_, py::arg("group"), py::arg("rule"), py::arg("params"),
           py::arg("positions"))
      .def("set_state_", &Plan::set_state_, py::arg("index"), py::arg("step"), py::arg("state"))
      .def_property_readonly("missing", &Plan::missing)
      .def_property_readonly("num_tensors", &Plan::num_tensors)
      .def_property_readonly("place", &Plan::place)
      .def_property_readonly("was_captured", &Plan::was_captured)
      .def("table_bytes", &Plan::table_bytes);

  module.def("step_", &step_, py::arg("plans"), py::arg("clock"));
  module.def("step_", &step_on_device_, py::arg("plans"), py::arg("clock"));
  module.def("materialize_", &materialize_, py::arg("plans"));

  module.def("rules", [] {
    py::dict rules;
    for (const RuleFacts& facts : rule_facts()) {
      rules[facts.name] =
          py::dict(py::arg("states") = facts.states, py::arg("counts_steps") = facts.counts_steps,
                   py::arg("hypers") = facts.hypers);
    }
    return rules;
  });
}

}  // namespace fusedlr
