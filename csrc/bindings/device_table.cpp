#include "bindings/device_table.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <stdexcept>

#include "bindings/tensor_access.h"

namespace fusedlr {
namespace {

constexpr const char* kCannotChange =
    "a step that is being captured would have to tell the device something new, which every replay "
    "would repeat; call optimizer.materialize(), or optimizer.step() and scheduler.step() once, "
    "after the last change and before the capture";

// What no host ever writes: a place that holds it differs from every number.
const double kUnknown = [] {
  const uint64_t bits = 0x7ff4'dead'beef'0001u;
  double number;
  std::memcpy(&number, &bits, sizeof(number));
  return number;
}();

bool is_same(const double* a, const double* b, int64_t count) {
  return std::memcmp(a, b, count * sizeof(double)) == 0;
}

TablePlace to_row(const DeviceTable::Place& place) {
  return {static_cast<int32_t>(place.first), static_cast<int32_t>(place.second)};
}

Dtype storage_of(const at::Tensor& tensor, const char* what) {
  Dtype dtype;
  if (!find_storage(tensor.scalar_type(), dtype) || tensor.is_complex()) {
    throw py::value_error(std::string(what) + " must be a floating tensor, but has dtype " +
                          c10::toString(tensor.scalar_type()));
  }
  return dtype;
}

}  // namespace

void refuse_while_capturing(Device& device) {
  if (device.is_capturing()) throw std::runtime_error(kCannotChange);
}

bool DeviceBlob::holds(const void* bytes, int64_t size) const {
  return static_cast<int64_t>(held_.size()) == size &&
         (size == 0 || std::memcmp(held_.data(), bytes, size) == 0);
}

void DeviceBlob::put_(Device& device, const void* bytes, int64_t size) {
  if (holds(bytes, size)) return;
  refuse_while_capturing(device);
  if (!memory_.defined() || memory_.numel() < size) {
    if (memory_.defined()) device.record_stream(memory_);
    memory_ = device.allocate(size);
  }
  device.copy_(memory_.mutable_data_ptr(), bytes, size);
  const auto* begin = static_cast<const unsigned char*>(bytes);
  held_.assign(begin, begin + size);
}

DeviceTable::DeviceTable(const std::string& engine, c10::Device place, at::Tensor host_lr,
                         at::Tensor host_hypers)
    : device_(device_at(engine, place)), stream_(device_) {
  const auto options = at::TensorOptions(place).dtype(at::kDouble);
  counters_ = at::zeros({sizeof(StepCounters) / sizeof(double)}, options);
  completed = counters_.narrow(0, 0, 1);
  skipped = counters_.narrow(0, 1, 1);
  tables_.counters = reinterpret_cast<StepCounters*>(counters_.mutable_data_ptr<double>());
  set_table(std::move(host_lr), std::move(host_hypers));
  send_tables_();
}

void DeviceTable::set_table(at::Tensor host_lr, at::Tensor host_hypers) {
  host_lr_ = std::move(host_lr);
  host_hypers_ = std::move(host_hypers);
  is_allocated_ = false;
  if (was_captured_) flush_();  // a replay may move the numbers of the new table
}

void DeviceTable::allocate_() {
  if (is_allocated_) return;
  refuse_while_capturing(device_);
  const auto options = at::TensorOptions(device_.place()).dtype(at::kDouble);
  for (const at::Tensor& before : {lr_, hypers_}) {
    if (before.defined()) device_.record_stream(before);
  }
  lr_ = at::empty(host_lr_.sizes(), options);
  hypers_ = at::empty(host_hypers_.sizes(), options);
  lr_version_ = lr_._version();
  hypers_version_ = hypers_._version();
  sent_.assign(host_lr_.numel() + host_hypers_.numel(), kUnknown);
  tables_.lr = lr_.mutable_data_ptr<double>();
  tables_.hypers = hypers_.mutable_data_ptr<double>();
  tables_.num_groups = host_lr_.numel();
  tables_.num_hypers = host_hypers_.size(1);
  is_allocated_ = true;
  send_tables_();
}

void DeviceTable::send_tables_() { tables_blob_.put_(device_, &tables_, sizeof(tables_)); }

double* DeviceTable::host_slot(const TablePlace& place) const {
  if (place.column < 0) return host_lr_.mutable_data_ptr<double>() + place.group;
  return host_hypers_.mutable_data_ptr<double>() + place.group * host_hypers_.size(1) +
         place.column;
}

const at::Tensor& DeviceTable::lr() {
  sync_();
  return lr_;
}

const at::Tensor& DeviceTable::hypers() {
  sync_();
  return hypers_;
}

void DeviceTable::sync_() {
  flush_();
  if (!links_.empty()) run_prologue_(/*begins=*/false, /*ends=*/false);
}

void DeviceTable::mark_(int64_t group, int64_t column) {
  if (!is_allocated_) return;  // everything will be sent
  const int64_t num_hypers = host_hypers_.size(1);
  const int64_t slot = column < 0 ? group : num_groups() + group * num_hypers + column;
  sent_.at(slot) = kUnknown;
  send_if_captured_();
}

void DeviceTable::send_if_captured_() {
  if (was_captured_ || device_.is_capturing()) flush_();
}

void DeviceTable::flush_() {
  allocate_();
  const int64_t num_lrs = num_groups(), num_hypers = host_hypers_.size(1);
  const double* lr = host_lr_.const_data_ptr<double>();
  const double* hypers = host_hypers_.const_data_ptr<double>();
  if (!is_same(sent_.data(), lr, num_lrs) ||
      !is_same(sent_.data() + num_lrs, hypers, num_lrs * num_hypers)) {
    refuse_while_capturing(device_);
    const auto args = std::make_unique<WriteNumbersArgs>();
    args->tables = step_tables();
    args->count = 0;
    const auto send = [&] {
      if (args->count > 0) device_.launch(*args);
      args->count = 0;
    };
    const auto add = [&](double& sent, double value, TablePlace place) {
      if (is_same(&sent, &value, 1)) return;
      sent = value;
      args->places[args->count] = place;
      args->values[args->count] = value;
      if (++args->count == kMaxNumbers) send();
    };
    for (int32_t g = 0; g < num_lrs; ++g) {
      add(sent_[g], lr[g], {g, -1});
      for (int32_t column = 0; column < num_hypers; ++column) {
        const int64_t slot = g * num_hypers + column;
        add(sent_[num_lrs + slot], hypers[slot], {g, column});
      }
    }
    send();
  }
  send_links_();
  if (found_inf_.defined() && !is_readable(found_inf_)) {
    const double number = found_inf_.item().toDouble();
    found_inf_blob_.put_(device_, &number, sizeof(number));
  }
  send_tables_();
}

void DeviceTable::pull_() {
  const bool was_written =
      is_allocated_ && (lr_._version() != lr_version_ || hypers_._version() != hypers_version_);
  const bool may_be_ahead = is_ahead_ || (was_captured_ && has_movers_);
  if (!may_be_ahead && links_.empty() && !was_written) return flush_();
  if (device_.is_capturing()) {
    throw std::runtime_error(
        "a param group cannot be read while a graph is being captured: its numbers are on the "
        "device; read it before or after the capture");
  }
  sync_();
  is_ahead_ = false;
  lr_version_ = lr_._version();
  hypers_version_ = hypers_._version();
  const auto fetch = [&](at::Tensor& host, const at::Tensor& here, double* sent) {
    if (here.numel() == 0) return;
    const int64_t size = here.numel() * static_cast<int64_t>(sizeof(double));
    device_.read(host.mutable_data_ptr<double>(), here.const_data_ptr<double>(), size);
    std::memcpy(sent, host.const_data_ptr<double>(), size);
  };
  fetch(host_lr_, lr_, sent_.data());
  fetch(host_hypers_, hypers_, sent_.data() + num_groups());
}

void DeviceTable::put(int64_t group, int64_t column, at::Tensor tensor,
                      const c10::optional<at::Tensor>& source) {
  Link link{std::move(tensor), source.value_or(at::Tensor())};
  LiveLink row{};
  row.place = to_row({group, column});
  row.tensor_dtype = storage_of(link.tensor, "a hyper");
  row.tensor = link.tensor.mutable_data_ptr();
  row.tensor_value = row.source_value = row.slot_value = *host_slot(row.place);
  if (link.source.defined()) {
    row.source_dtype = storage_of(link.source, "a hyper");
    row.source = link.source.const_data_ptr();
  }
  erase_link_(group, column);
  fetch_links_();
  links_[{group, column}] = std::move(link);
  link_rows_.push_back(row);
  send_if_captured_();
}

void DeviceTable::drop(int64_t group, int64_t column) {
  if (erase_link_(group, column)) send_if_captured_();
}

bool DeviceTable::erase_link_(int64_t group, int64_t column) {
  if (links_.erase({group, column}) == 0) return false;
  fetch_links_();
  const TablePlace place = to_row({group, column});
  const auto is_here = [&](const LiveLink& row) {
    return row.place.group == place.group && row.place.column == place.column;
  };
  link_rows_.erase(std::remove_if(link_rows_.begin(), link_rows_.end(), is_here), link_rows_.end());
  return true;
}

bool DeviceTable::follows_source(int64_t group, int64_t column) {
  fetch_links_();
  const TablePlace place = to_row({group, column});
  const auto follows = [&](const LiveLink& row) {
    return row.place.group == place.group && row.place.column == place.column &&
           row.source != nullptr;
  };
  return std::any_of(link_rows_.begin(), link_rows_.end(), follows);
}

// Brings what kernels have last seen of the links into the host's image.
void DeviceTable::fetch_links_() {
  if (links_are_sent_ && !link_rows_.empty()) {
    device_.read(link_rows_.data(), link_memory_.const_data_ptr(),
                 static_cast<int64_t>(link_rows_.size() * sizeof(LiveLink)));
  }
  links_are_sent_ = false;
}

void DeviceTable::send_links_() {
  // Where a tensor lies may change behind it, as in lr.data = other.
  for (LiveLink& row : link_rows_) {
    const at::Tensor& tensor = links_.at({row.place.group, row.place.column}).tensor;
    if (tensor.const_data_ptr() == row.tensor) continue;
    fetch_links_();
    row.tensor = tensor.mutable_data_ptr();
  }
  if (links_are_sent_) return;
  refuse_while_capturing(device_);
  const auto size = static_cast<int64_t>(link_rows_.size() * sizeof(LiveLink));
  if (link_memory_.defined()) device_.record_stream(link_memory_);
  link_memory_ = device_.allocate(size);
  device_.copy_(link_memory_.mutable_data_ptr(), link_rows_.data(), size);
  tables_.links = reinterpret_cast<LiveLink*>(link_memory_.mutable_data_ptr());
  tables_.num_links = static_cast<int64_t>(link_rows_.size());
  links_are_sent_ = true;
}

void DeviceTable::configure(std::vector<Schedule> schedules, std::vector<Record> records) {
  schedules_ = std::move(schedules);
  records_ = std::move(records);
  has_movers_ |= !schedules_.empty();

  std::vector<ScheduleFormula> formulas;
  std::vector<ScheduledPlace> scheduled;
  formula_blobs_.resize(schedules_.size());
  for (size_t i = 0; i < schedules_.size(); ++i) {
    const auto& [expression, places] = schedules_[i];
    formulas.push_back(put_formula_(*expression, formula_blobs_[i]));
    for (const Place& place : places) {
      scheduled.push_back({to_row(place), static_cast<int32_t>(i)});
    }
  }
  tables_.formulas = formulas_blob_.put_(device_, formulas);
  tables_.num_formulas = static_cast<int64_t>(formulas.size());
  tables_.scheduled = scheduled_blob_.put_(device_, scheduled);
  tables_.num_scheduled = static_cast<int64_t>(scheduled.size());

  std::vector<TablePlace> places;
  for (const auto& [memory, capacity, recorded] : records_) {
    for (const Place& place : recorded) places.push_back(to_row(place));
  }
  const TablePlace* first_place = record_places_blob_.put_(device_, places);
  std::vector<StepRecord> rows;
  for (const auto& [memory, capacity, recorded] : records_) {
    const auto num_places = static_cast<int64_t>(recorded.size());
    rows.push_back({memory.mutable_data_ptr<double>(), capacity, first_place, num_places});
    first_place += num_places;
  }
  tables_.records = records_blob_.put_(device_, rows);
  tables_.num_records = static_cast<int64_t>(rows.size());
  send_if_captured_();
}

// A formula on the device: its code, its tables and room for its results, one after the other.
ScheduleFormula DeviceTable::put_formula_(const Expression& expression, DeviceBlob& blob) {
  const std::vector<Instruction>& code = expression.code();
  const std::vector<double>& tables = expression.tables();
  const size_t code_size = code.size() * sizeof(Instruction);
  const size_t tables_size = tables.size() * sizeof(double);
  static_assert(sizeof(Instruction) % alignof(double) == 0);
  std::vector<unsigned char> bytes(code_size + tables_size + code.size() * sizeof(double));
  std::memcpy(bytes.data(), code.data(), code_size);
  if (tables_size > 0) std::memcpy(bytes.data() + code_size, tables.data(), tables_size);
  unsigned char* begin = blob.put_(device_, bytes);
  return {reinterpret_cast<const Instruction*>(begin), static_cast<int64_t>(code.size()),
          reinterpret_cast<const double*>(begin + code_size),
          reinterpret_cast<double*>(begin + code_size + tables_size)};
}

// Whether kernels can read a tensor; the host tells them of others.
bool DeviceTable::is_readable(const at::Tensor& tensor) const {
  return tensor.device() == device_.place() && !is_wrapper(tensor);
}

void DeviceTable::set_found_inf(at::Tensor tensor) {
  found_inf_ = std::move(tensor);
  tables_.found_inf = nullptr;
  if (found_inf_.defined() && is_readable(found_inf_)) {
    tables_.found_inf_dtype = storage_of(found_inf_, "found_inf");
    tables_.found_inf = found_inf_.const_data_ptr();
  } else if (found_inf_.defined()) {
    const double number = found_inf_.item().toDouble();
    found_inf_blob_.put_(device_, &number, sizeof(number));
    tables_.found_inf_dtype = Dtype::float64;
    tables_.found_inf = found_inf_blob_.data<double>();
  }
  send_if_captured_();
}

void DeviceTable::begin_() {
  flush_();
  run_prologue_(/*begins=*/true, /*ends=*/false);
}

void DeviceTable::finish_() { run_prologue_(/*begins=*/false, /*ends=*/true); }

void DeviceTable::begin_launches_() {
  was_captured_ |= device_.is_capturing();
  is_ahead_ |= has_movers_;
  if (stream_.has_changed_(device_)) record_streams_();
  if (!has_movers_) return;
  for (const auto& [place, link] : links_) {  // a kernel writes it, in place
    if (!link.tensor.is_inference()) link.tensor.unsafeGetTensorImpl()->bump_version();
  }
}

// What this table owns must not be freed before the current stream is done with it.
void DeviceTable::record_streams_() {
  std::vector<const at::Tensor*> owned{&lr_, &hypers_, &counters_, &link_memory_};
  std::vector<const DeviceBlob*> blobs{&found_inf_blob_, &tables_blob_,  &formulas_blob_,
                                       &scheduled_blob_, &records_blob_, &record_places_blob_};
  for (const DeviceBlob& blob : formula_blobs_) blobs.push_back(&blob);
  for (const DeviceBlob* blob : blobs) owned.push_back(&blob->memory());
  for (const auto& [memory, capacity, places] : records_) owned.push_back(&memory);
  for (const at::Tensor* memory : owned) {
    if (memory->defined()) device_.record_stream(*memory);
  }
}

void DeviceTable::run_prologue_(bool begins, bool ends) {
  begin_launches_();
  PrologueArgs args{};
  args.tables = step_tables();
  args.begins = begins;
  args.ends = ends;
  device_.launch(args);
}

bool DeviceTable::is_skipped() {
  StepCounters counters;
  device_.read(&counters, tables_.counters, sizeof(counters));
  return counters.is_skipped != 0;
}

void DeviceTable::follow_(DeviceTable& other) {
  const at::NoGradGuard no_grad;
  allocate_();
  lr_.copy_(other.lr_, /*non_blocking=*/true);
  hypers_.copy_(other.hypers_, /*non_blocking=*/true);
  counters_.copy_(other.counters_, /*non_blocking=*/true);
}

void bind_device_table(py::module_& module) {
  using Table = DeviceTable;
  py::class_<Table, std::shared_ptr<Table>>(module, "DeviceTable")
      .def(py::init<const std::string&, c10::Device, at::Tensor, at::Tensor>(), py::arg("engine"),
           py::arg("place"), py::arg("lr"), py::arg("hypers"))
      .def_property_readonly("place", [](const Table& table) { return table.device().place(); })
      .def("set_table", &Table::set_table, py::arg("lr"), py::arg("hypers"))
      .def_property_readonly("lr", &Table::lr)
      .def_property_readonly("hypers", &Table::hypers)
      .def("mark_", &Table::mark_, py::arg("group"), py::arg("column"))
      .def("flush_", &Table::flush_)
      .def("pull_", &Table::pull_)
      .def("put", &Table::put, py::arg("group"), py::arg("column"), py::arg("tensor"),
           py::arg("source"))
      .def("drop", &Table::drop, py::arg("group"), py::arg("column"))
      .def("follows_source", &Table::follows_source, py::arg("group"), py::arg("column"))
      .def("configure", &Table::configure, py::arg("schedules"), py::arg("records"))
      .def("begin_", &Table::begin_)
      .def("finish_", &Table::finish_)
      .def_property_readonly("is_skipped", &Table::is_skipped)
      .def_property_readonly("is_capturing",
                             [](const Table& table) { return table.device().is_capturing(); })
      .def_property_readonly("was_captured", &Table::was_captured)
      .def_readwrite("ends_with_plans", &Table::ends_with_plans)
      .def_readonly("completed", &Table::completed)
      .def_readonly("skipped", &Table::skipped)
      .def_property(
          "found_inf",
          [](const Table& table) {
            return table.found_inf().defined() ? std::optional<at::Tensor>(table.found_inf())
                                               : std::nullopt;
          },
          [](Table& table, const std::optional<at::Tensor>& tensor) {
            table.set_found_inf(tensor.value_or(at::Tensor()));
          });
}

}  // namespace fusedlr
