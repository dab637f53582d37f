#include "bindings/device_plan.h"

#include <algorithm>
#include <map>
#include <stdexcept>
#include <utility>

#include "engine/tuning.h"

namespace fusedlr {
namespace {

bool is_same(const TensorRow& a, const TensorRow& b) {
  return std::equal(std::begin(a.data), std::end(a.data), std::begin(b.data)) && a.step == b.step &&
         a.numel == b.numel && a.group == b.group && a.layout == b.layout &&
         a.param_dtype == b.param_dtype && a.grad_dtype == b.grad_dtype &&
         a.state_dtype == b.state_dtype && a.step_dtype == b.step_dtype;
}

// Appends a layout in the form of DeviceLayout.
void append(const StridedLayout& layout, std::vector<int64_t>& words) {
  const std::vector<int64_t>& sizes = layout.sizes;
  words.push_back(static_cast<int64_t>(sizes.size()));
  words.insert(words.end(), sizes.begin(), sizes.end());
  std::vector<int64_t> in_order(sizes.size());
  int64_t stride = 1;
  for (size_t dim = sizes.size(); dim-- > 0; stride *= sizes[dim]) in_order[dim] = stride;
  for (const std::vector<int64_t>& strides : layout.strides) {
    const std::vector<int64_t>& chosen = strides.empty() ? in_order : strides;
    words.insert(words.end(), chosen.begin(), chosen.end());
  }
}

template <class... Rule>
std::vector<int> states_of(const std::tuple<Rule...>*) {
  return {Rule::kStates...};
}

}  // namespace

// Brings the images of the active rows up to date; returns whether anything has changed.
bool DevicePlan::update_rows_(const PlanTables& tables) {
  std::vector<int64_t> layouts, offsets;
  for (const StridedLayout& layout : tables.layouts) {
    offsets.push_back(static_cast<int64_t>(layouts.size()));
    append(layout, layouts);
  }
  bool has_changed = layouts != layouts_ || active_ != tables.active;
  layouts_ = std::move(layouts);
  active_ = tables.active;
  rows_.resize(tables.tensors.size());
  for (const int32_t index : active_) {
    TensorRow row = tables.tensors[index];
    row.data[kGrad] = nullptr;
    if (row.layout >= 0) row.layout = static_cast<int32_t>(offsets[row.layout]);
    if (is_same(row, rows_[index])) continue;
    rows_[index] = row;
    has_changed = true;
  }
  return has_changed;
}

// Cuts the active rows into chunks, those of a rule and a storage one after the other.
void DevicePlan::build_chunks_(const PlanTables& tables) {
  static const std::vector<int> num_states = states_of(static_cast<const Rules*>(nullptr));
  std::map<std::pair<int32_t, Storage>, std::vector<Chunk>> parts;
  for (const int32_t index : active_) {
    const TensorRow& row = rows_[index];
    const int32_t rule = tables.rules[row.group];
    std::vector<Chunk>& part = parts[{rule, storage_of(row, num_states[rule])}];
    const int64_t count = (row.numel + kDeviceChunkElements - 1) / kDeviceChunkElements;
    for (int32_t number = 0; number < count; ++number) part.push_back({index, number});
  }
  chunks_.clear();
  segments_.clear();
  for (const auto& [key, part] : parts) {
    if (part.empty()) continue;
    segments_.push_back({key.first, key.second, static_cast<int64_t>(chunks_.size()),
                         static_cast<int64_t>(part.size())});
    chunks_.insert(chunks_.end(), part.begin(), part.end());
  }
}

template <class Item>
void DevicePlan::send_to_(at::Tensor& memory, const std::vector<Item>& items) {
  Device& device = table_.device();
  const auto size = static_cast<int64_t>(items.size() * sizeof(Item));
  if (!memory.defined() || memory.numel() < size) {
    if (memory.defined()) device.record_stream(memory);
    memory = device.allocate(size);
  }
  device.copy_(memory.mutable_data_ptr(), items.data(), size);
}

void DevicePlan::send_(const PlanTables& tables) {
  if (memory_was_captured_) captured_.push_back(std::exchange(memory_, {}));
  memory_was_captured_ = false;
  send_to_(memory_.rows, rows_);
  send_to_(memory_.active, active_);
  send_to_(memory_.rules, tables.rules);
  send_to_(memory_.chunks, chunks_);
  send_to_(memory_.layouts, layouts_);
  if (!memory_.coeffs.defined()) {
    const auto size = static_cast<int64_t>(rows_.size() * kMaxCoeffs * sizeof(double));
    memory_.coeffs = table_.device().allocate(size);
  }
  has_grads_ = false;
  is_sent_ = true;
}

void DevicePlan::prepare_(const PlanTables& tables) {
  is_sent_ &= !update_rows_(tables);
  if (is_sent_) return;
  if (table_.device().is_capturing()) {
    throw std::runtime_error(
        "the step that is being captured is not the one that was prepared: other parameters have a "
        "gradient, or tensors have moved. Call optimizer.materialize() (for gradients on all "
        "parameters), or make one training step, right before the capture");
  }
  build_chunks_(tables);
  for (const Segment& segment : segments_) table_.device().load(segment.rule, segment.storage);
  send_(tables);
}

void DevicePlan::send_grads_(const PlanTables& tables, bool has_forgotten) {
  bool is_known = !has_forgotten && grads_.size() == active_.size();
  grads_.resize(active_.size());
  for (size_t k = 0; k < active_.size(); ++k) {
    const void* grad = tables.tensors[active_[k]].data[kGrad];
    is_known &= grads_[k] == grad;
    grads_[k] = grad;
  }
  if (is_known) return;
  SetGradsArgs args;
  args.rows = reinterpret_cast<TensorRow*>(memory_.rows.mutable_data_ptr());
  args.active = reinterpret_cast<const int32_t*>(memory_.active.const_data_ptr());
  for (size_t first = 0; first < grads_.size(); first += kMaxGrads) {
    args.first = static_cast<int32_t>(first);
    args.count = static_cast<int32_t>(std::min<size_t>(kMaxGrads, grads_.size() - first));
    std::copy_n(grads_.begin() + args.first, args.count, args.grads);
    table_.device().launch(args);
  }
}

void DevicePlan::run_(const PlanTables& tables, bool begins, bool ends) {
  Device& device = table_.device();
  const bool is_capturing = device.is_capturing();
  if (is_capturing) {
    memory_was_captured_ = true;
    table_.note_capture_();
  }
  // A graph brings its own gradients at every replay, and leaves them there.
  send_grads_(tables, !has_grads_ || memory_was_captured_);
  has_grads_ = !memory_was_captured_;

  PrologueArgs prologue{};
  prologue.tables = table_.step_tables();
  prologue.rows = reinterpret_cast<TensorRow*>(memory_.rows.mutable_data_ptr());
  prologue.active = reinterpret_cast<const int32_t*>(memory_.active.const_data_ptr());
  prologue.num_active = static_cast<int64_t>(active_.size());
  prologue.rules = reinterpret_cast<const int32_t*>(memory_.rules.const_data_ptr());
  prologue.coeffs = reinterpret_cast<double*>(memory_.coeffs.mutable_data_ptr());
  prologue.begins = begins;
  prologue.ends = ends;
  device.launch(prologue);

  UpdateArgs update{};
  update.tables = prologue.tables;
  update.rows = prologue.rows;
  update.layouts = reinterpret_cast<const int64_t*>(memory_.layouts.const_data_ptr());
  update.coeffs = prologue.coeffs;
  for (const Segment& segment : segments_) {
    update.chunks = reinterpret_cast<const Chunk*>(memory_.chunks.const_data_ptr()) + segment.begin;
    update.num_chunks = segment.count;
    device.launch(update, segment.rule, segment.storage);
  }
}

int64_t DevicePlan::table_bytes() const {
  const auto bytes = [](const auto& table) { return table.capacity() * sizeof(table[0]); };
  size_t total = bytes(rows_) + bytes(active_) + bytes(chunks_) + bytes(layouts_) + bytes(grads_);
  for (const at::Tensor* memory : {&memory_.rows, &memory_.active, &memory_.rules, &memory_.coeffs,
                                   &memory_.chunks, &memory_.layouts}) {
    if (memory->defined()) total += memory->numel();
  }
  return static_cast<int64_t>(total);
}

}  // namespace fusedlr
