// The tables of a plan on a device that runs kernels, and the launches of a step.
#pragma once

#include "bindings/torch_headers.h"

#include <array>
#include <cstdint>
#include <vector>

#include "bindings/device.h"
#include "bindings/device_table.h"
#include "engine/plan_tables.h"

namespace fusedlr {

class DevicePlan {
 public:
  explicit DevicePlan(DeviceTable& table) : table_(table), stream_(table.device()) {}

  // Makes the device's tables hold what has been gathered, all but the gradients. Throws if that
  // would change something while a graph is being captured.
  void prepare_(const PlanTables& tables);
  // Launches the step that was prepared.
  void run_(const PlanTables& tables, bool begins, bool ends);

  DeviceTable& table() const { return table_; }
  bool was_captured() const { return memory_was_captured_ || !captured_.empty(); }
  int64_t table_bytes() const;

 private:
  // The chunks [begin, begin + count) share a rule and a storage.
  struct Segment {
    int32_t rule;
    Storage storage;
    int64_t begin, count;
  };

  // Device memory whose addresses a captured graph may know.
  struct Memory {
    at::Tensor rows, active, rules, coeffs, chunks, layouts;

    std::array<const at::Tensor*, 6> all() const {
      return {&rows, &active, &rules, &coeffs, &chunks, &layouts};
    }
  };

  bool update_rows_(const PlanTables& tables);
  void build_chunks_(const PlanTables& tables);
  void send_(const PlanTables& tables);
  void send_grads_(const PlanTables& tables, bool has_forgotten);
  template <class Item>
  void send_to_(at::Tensor& memory, const std::vector<Item>& items);

  DeviceTable& table_;
  StreamWatch stream_;
  // The host's images. A row here has no gradient, and its layout is an offset into layouts_.
  std::vector<TensorRow> rows_;
  std::vector<int32_t> active_;
  std::vector<Chunk> chunks_;
  std::vector<Segment> segments_;
  std::vector<int64_t> layouts_;
  std::vector<const void*> grads_;  // of the active rows, as the device has them
  Memory memory_;
  std::vector<Memory> captured_;  // earlier memory that graphs may still use
  bool is_sent_ = false;
  bool has_grads_ = false;            // whether the device has grads_
  bool memory_was_captured_ = false;  // a graph writes its own gradients into the rows
};

}  // namespace fusedlr
