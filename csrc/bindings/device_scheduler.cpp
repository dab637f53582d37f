#include "bindings/device_scheduler.h"

#include <cstring>
#include <initializer_list>
#include <utility>

namespace fusedlr {

DeviceScheduler::DeviceScheduler(Device& device, const SchedulerRow& host)
    : device_(device), stream_(device) {
  refuse_while_capturing(device);
  memory_ = device.allocate(sizeof(SchedulerRow));
  device.copy_(row(), &host, sizeof(host));
}

// Room for `count` items, whatever they are.
template <class Item>
Item* DeviceScheduler::reserve_(at::Tensor& memory, int64_t count) {
  const auto size = static_cast<int64_t>(count * sizeof(Item));
  if (!memory.defined() || memory.numel() < size) {
    refuse_while_capturing(device_);
    if (memory.defined()) device_.record_stream(memory);
    memory = device_.allocate(size);
  }
  return static_cast<Item*>(memory.mutable_data_ptr());
}

void DeviceScheduler::put_functions_(std::vector<StepFunction> functions,
                                     const std::vector<Expression>& expressions) {
  std::vector<Instruction> all_code;
  std::vector<double> all_tables;
  for (const Expression& expression : expressions) {
    all_code.insert(all_code.end(), expression.code().begin(), expression.code().end());
    all_tables.insert(all_tables.end(), expression.tables().begin(), expression.tables().end());
  }
  const Instruction* code = code_.put_(device_, all_code);
  const double* tables = tables_.put_(device_, all_tables);
  double* results = reserve_<double>(results_, static_cast<int64_t>(all_code.size()));
  for (size_t i = 0; i < expressions.size(); ++i) {
    const auto size = static_cast<int64_t>(expressions[i].code().size());
    functions[i] = {code, size, tables, results};
    code += size;
    results += size;
    tables += expressions[i].tables().size();
  }
  functions_.put_(device_, functions);
}

void DeviceScheduler::put_settings_(const SchedulerSettings& host, int64_t num_columns,
                                    int64_t num_groups,
                                    const std::vector<SchedulerRow*>& children) {
  const auto put = [&](DeviceBlob& blob, const auto* items, int64_t count) {
    blob.put_(device_, items, static_cast<int64_t>(count * sizeof(*items)));
  };
  put(table_, host.table, host.table_size);
  put(columns_, host.columns, num_columns * num_groups);
  put(function_of_group_, host.function_of_group, host.num_functions > 1 ? num_groups : 0);
  children_.put_(device_, children);
  num_groups_ = num_groups;

  SchedulerSettings settings = host;
  settings.table = table_.data<double>();
  settings.functions = functions_.data<StepFunction>();
  settings.function_of_group = function_of_group_.data<int64_t>();
  settings.columns = columns_.data<double>();
  settings.children = children_.data<SchedulerRow*>();
  settings.moves = reserve_<Moves>(moves_, host.num_functions);
  settings.last_lr = reserve_<double>(last_lr_, num_groups);
  settings.num_groups = num_groups;
  if (std::memcmp(&settings, &sent_, sizeof(settings)) == 0) return;
  refuse_while_capturing(device_);
  device_.copy_(static_cast<SchedulerSettings*>(row()), &settings, sizeof(settings));
  sent_ = settings;
}

SchedulerRow DeviceScheduler::read() const {
  SchedulerRow copy;
  device_.read(&copy, row(), sizeof(copy));
  return copy;
}

std::vector<double> DeviceScheduler::read_last_lr() const {
  std::vector<double> values(num_groups_);
  if (num_groups_ > 0) {
    device_.read(values.data(), last_lr_.const_data_ptr(),
                 static_cast<int64_t>(values.size() * sizeof(double)));
  }
  return values;
}

void DeviceScheduler::write_clock_(ptrdiff_t offset, double value) {
  refuse_while_capturing(device_);
  device_.copy_(reinterpret_cast<char*>(&row()->clock) + offset, &value, sizeof(value));
}

void DeviceScheduler::begin_launch_() {
  if (!stream_.has_changed_(device_)) return;
  const std::initializer_list<const at::Tensor*> all{&memory_,
                                                     &results_,
                                                     &moves_,
                                                     &last_lr_,
                                                     &functions_.memory(),
                                                     &code_.memory(),
                                                     &tables_.memory(),
                                                     &table_.memory(),
                                                     &function_of_group_.memory(),
                                                     &columns_.memory(),
                                                     &children_.memory()};
  for (const at::Tensor* owned : all) {
    if (owned->defined()) device_.record_stream(*owned);
  }
}

void DeviceScheduler::note_step_(bool is_capture, bool host_follows) {
  was_captured_ |= is_capture;
  is_ahead_ |= !host_follows;
}

}  // namespace fusedlr
