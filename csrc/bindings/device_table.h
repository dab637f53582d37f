// What the steps of one optimizer share on one device: the group table, the clock, what goes by it,
// and the hypers that are tensors of the user's.
//
// The host keeps a copy of the group table, in which it writes and reads; what it has written
// reaches the device before the next step, or at once if a graph may be replayed without a step of
// the host's.
#pragma once

#include "bindings/torch_headers.h"

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/device.h"
#include "bindings/expression.h"
#include "engine/kernel_tables.h"

namespace fusedlr {

// Throws if a graph is being captured: what the host would have to do now cannot be part of it.
void refuse_while_capturing(Device& device);

// A block of device memory that holds what the host has last put there.
class DeviceBlob {
 public:
  // Makes the block hold these bytes; a longer one is allocated where that is needed.
  void put_(Device& device, const void* bytes, int64_t size);
  template <class Item>
  Item* put_(Device& device, const std::vector<Item>& items) {
    put_(device, items.data(), static_cast<int64_t>(items.size() * sizeof(Item)));
    return data<Item>();
  }
  // Whether putting these bytes would do anything.
  bool holds(const void* bytes, int64_t size) const;
  // Undefined before the first bytes.
  const at::Tensor& memory() const { return memory_; }

  template <class Item>
  Item* data() const {
    return memory_.defined() ? reinterpret_cast<Item*>(memory_.data_ptr()) : nullptr;
  }

 private:
  at::Tensor memory_;
  std::vector<unsigned char> held_;
};

class DeviceTable {
 public:
  // A place in the group table: a group, and a column of its hypers or -1, which is the lr. A group
  // of -1 is one that is gone; its record is NaN.
  using Place = std::pair<int64_t, int64_t>;
  // A formula of the completed steps, and the places that it fills before each step.
  using Schedule = std::pair<std::shared_ptr<Expression>, std::vector<Place>>;
  // Memory on this device, capacity and places; see StepRecord.
  using Record = std::tuple<at::Tensor, int64_t, std::vector<Place>>;

  // A table of an engine on the device at `place`, which begins with what the host's tables hold.
  DeviceTable(const std::string& engine, c10::Device place, at::Tensor host_lr,
              at::Tensor host_hypers);

  // The host's copy: lr float64 [num_groups] and hypers float64 [num_groups, num_hypers] on the
  // CPU. New rows are sent with the next flush_.
  void set_table(at::Tensor host_lr, at::Tensor host_hypers);

  // The table on the device, up to date with what the host has written.
  const at::Tensor& lr();
  const at::Tensor& hypers();

  // The host has written this place, maybe the value that its copy held already.
  void mark_(int64_t group, int64_t column);
  // Sends what the host has changed.
  void flush_();
  // Sends it, and carries what was written into the user's tensors into the table.
  void sync_();
  // Fetches what kernels, or writes into lr() and hypers(), may have changed; waits for the device.
  void pull_();
  // Steps that are launched from now on move numbers of the table.
  void expect_moves_() { has_movers_ = true; }
  // A step is about to be launched, or to become part of a graph.
  void begin_launches_();

  // Ties a tensor of one element on this device to a place, which holds the tensor's number as it
  // was last seen; see LiveTensors::put. Does not wait for the device.
  void put(int64_t group, int64_t column, at::Tensor tensor,
           const c10::optional<at::Tensor>& source);
  void drop(int64_t group, int64_t column);
  // Whether the tensor of a place still follows its source.
  bool follows_source(int64_t group, int64_t column);

  void configure(std::vector<Schedule> schedules, std::vector<Record> records);

  // Begins or ends a step that no plan begins or ends.
  void begin_();
  void finish_();
  bool is_skipped();

  // Not zero if this step's gradients have overflowed; undefined if nobody looks for that.
  const at::Tensor& found_inf() const { return found_inf_; }
  void set_found_inf(at::Tensor tensor);
  // float64 of one element each: kernels count in them.
  at::Tensor completed, skipped;
  // Whether a step ends with the last plan; otherwise parameters remain that no plan knows.
  bool ends_with_plans = true;

  // Takes over all numbers of a table on another device.
  void follow_(DeviceTable& other);

  Device& device() const { return device_; }
  int64_t num_groups() const { return host_lr_.numel(); }
  // Where the device finds everything; stays the same for good.
  StepTables* step_tables() const { return tables_blob_.data<StepTables>(); }
  // What graphs have captured must live as long as their replays can: at least as long as this.
  void keep_(std::shared_ptr<const void> captured) { kept_.push_back(std::move(captured)); }
  bool was_captured() const { return was_captured_; }

 private:
  struct Link {
    at::Tensor tensor, source;
  };

  bool is_readable(const at::Tensor& tensor) const;
  void allocate_();
  bool erase_link_(int64_t group, int64_t column);
  void record_streams_();
  void send_tables_();
  void send_links_();
  void fetch_links_();
  void send_if_captured_();
  ScheduleFormula put_formula_(const Expression& expression, DeviceBlob& blob);
  void run_prologue_(bool begins, bool ends);
  double* host_slot(const TablePlace& place) const;

  Device& device_;
  StreamWatch stream_;
  at::Tensor host_lr_, host_hypers_;
  at::Tensor lr_, hypers_, counters_;
  int64_t lr_version_ = 0, hypers_version_ = 0;
  std::vector<double> sent_;  // what the device got, or the host fetched, last; NaN: send again
  bool is_allocated_ = false;
  bool has_movers_ = false;
  bool is_ahead_ = false;  // kernels may have moved numbers since the host fetched them
  bool was_captured_ = false;
  at::Tensor found_inf_;
  DeviceBlob found_inf_blob_;  // its value, if it is on another device
  StepTables tables_;          // the host's image
  DeviceBlob tables_blob_;
  std::vector<Schedule> schedules_;
  std::vector<Record> records_;
  DeviceBlob formulas_blob_, scheduled_blob_, records_blob_, record_places_blob_;
  std::vector<DeviceBlob> formula_blobs_;
  std::map<Place, Link> links_;
  std::vector<LiveLink> link_rows_;
  at::Tensor link_memory_;
  bool links_are_sent_ = true;
  std::vector<std::shared_ptr<const void>> kept_;
};

void bind_device_table(py::module_& module);

}  // namespace fusedlr
