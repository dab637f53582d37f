// A scheduler on a device: its row, which kernels step, and what the row points to. The host's side
// of it is a SchedulerNode.
#pragma once

#include "bindings/torch_headers.h"

#include <cstddef>
#include <cstdint>
#include <vector>

#include "bindings/device.h"
#include "bindings/device_table.h"
#include "bindings/expression.h"
#include "engine/kernel_tables.h"

namespace fusedlr {

class DeviceScheduler {
 public:
  // A row that goes on where `host` stands; its settings are still to be put.
  DeviceScheduler(Device& device, const SchedulerRow& host);

  Device& device() const { return device_; }
  // Stays the same for good.
  SchedulerRow* row() const { return static_cast<SchedulerRow*>(memory_.mutable_data_ptr()); }

  // The functions of the step, as the host has them; the first of them are these expressions.
  void put_functions_(std::vector<StepFunction> functions,
                      const std::vector<Expression>& expressions);
  // All else that the host tells of the scheduler. `host` points to memory of the host, `children`
  // are rows on this device.
  void put_settings_(const SchedulerSettings& host, int64_t num_columns, int64_t num_groups,
                     const std::vector<SchedulerRow*>& children);

  // Reading waits for the device.
  SchedulerRow read() const;
  std::vector<double> read_last_lr() const;
  // Writes a number at an offset in the clock.
  void write_clock_(ptrdiff_t offset, double value);

  // A step is about to be launched, or to become part of a graph.
  void begin_launch_();
  // A step has been launched, or has become part of a graph; `host_follows`: the host has made it,
  // too.
  void note_step_(bool is_capture, bool host_follows);
  // The host may no longer know the clock; so it is for good once a graph can advance it.
  bool is_ahead() const { return is_ahead_ || was_captured_; }
  void note_read_() { is_ahead_ = false; }
  bool was_captured() const { return was_captured_; }

  // What the step that was launched last may still read.
  at::Tensor metric;

 private:
  template <class Item>
  Item* reserve_(at::Tensor& memory, int64_t count);

  Device& device_;
  StreamWatch stream_;
  at::Tensor memory_;
  SchedulerSettings sent_;
  DeviceBlob functions_, code_, tables_, table_, function_of_group_, columns_, children_;
  at::Tensor results_, moves_, last_lr_;
  int64_t num_groups_ = 0;
  bool is_ahead_ = false, was_captured_ = false;
};

}  // namespace fusedlr
