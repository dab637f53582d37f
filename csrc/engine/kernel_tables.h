// What kernels read: plain data that lies in device memory, or travels as a kernel's arguments.
//
// Whatever the host has to tell the device travels as arguments: stream-ordered, without a buffer
// that must stay alive, and right inside a captured graph. What may change after a capture lies
// behind one pointer that does not: StepTables.
#pragma once

#include <cstdint>

#include "engine/plan_tables.h"
#include "engine/unroll.h"
#include "math/expression.h"
#include "math/host_device.h"
#include "math/schedule.h"
#include "math/storage.h"

namespace fusedlr {

// A place in the group table; column -1 is the lr. A group of -1 is one that is gone.
struct TablePlace {
  int32_t group, column;
};

// The numbers that a step counts in, in this order: the clock's memory.
struct StepCounters {
  double completed, skipped;
  double is_skipped;  // whether the step that runs is one to skip
};

// A schedule that is evaluated when a step begins.
struct ScheduleFormula {
  const Instruction* code;
  int64_t size;
  const double* tables;
  double* results;  // room for `size` numbers; the last one is the value
};

// A number of the group table that follows a formula.
struct ScheduledPlace {
  TablePlace place;
  int32_t formula;
};

// A number of the group table that is tied to a tensor of the user's, and what was last seen.
struct LiveLink {
  TablePlace place;
  Dtype tensor_dtype, source_dtype;
  void* tensor;
  const void* source;  // a tensor that this one follows, or null
  double tensor_value, source_value, slot_value;
};

// A ring buffer of `capacity` rows: completed and skipped steps, then the places. Behind the rows
// is the number of rows ever written.
struct StepRecord {
  double* memory;
  int64_t capacity;
  const TablePlace* places;
  int64_t num_places;
};

// All that the steps of one optimizer share on one device, in device memory. A captured graph knows
// its address only, so it follows whatever the host changes in it.
struct StepTables {
  double* lr = nullptr;      // [num_groups]
  double* hypers = nullptr;  // [num_groups, num_hypers]
  int64_t num_groups = 0, num_hypers = 0;
  StepCounters* counters = nullptr;
  const void* found_inf = nullptr;  // not zero: skip the step
  Dtype found_inf_dtype = Dtype::float32;
  const ScheduleFormula* formulas = nullptr;
  int64_t num_formulas = 0;
  const ScheduledPlace* scheduled = nullptr;
  int64_t num_scheduled = 0;
  LiveLink* links = nullptr;
  int64_t num_links = 0;
  const StepRecord* records = nullptr;
  int64_t num_records = 0;

  // Not for groups that have gone since a graph was captured.
  FUSEDLR_HOST_DEVICE bool has(TablePlace place) const {
    return place.group >= 0 && place.group < num_groups;
  }
  FUSEDLR_HOST_DEVICE double& slot(TablePlace place) const {
    return place.column < 0 ? lr[place.group] : hypers[place.group * num_hypers + place.column];
  }
};

// One piece of a tensor: the elements [number, number + 1) * kDeviceChunkElements of a row.
struct Chunk {
  int32_t row, number;
};

// The arguments that carry data of the host come in two sizes: large ones, and an eighth of them,
// for little data and for drivers whose kernels take 4 KB of arguments only.
constexpr int kSmallShare = 8;

// Where the host has written numbers of the group table. No place comes twice.
constexpr int kMaxNumbers = 2000;
template <int kCapacity>
struct WriteNumbersArgsOf {
  const StepTables* tables;
  int32_t count;
  TablePlace places[kCapacity];
  double values[kCapacity];
};
using WriteNumbersArgs = WriteNumbersArgsOf<kMaxNumbers>;

// `size` bytes from the host.
constexpr int kMaxBytes = 32'000;
template <int kCapacity>
struct CopyBytesArgsOf {
  void* to;
  int32_t size;
  unsigned char bytes[kCapacity];
};
using CopyBytesArgs = CopyBytesArgsOf<kMaxBytes>;

// The gradients of the active rows [first, first + count).
constexpr int kMaxGrads = 4'000;
template <int kCapacity>
struct SetGradsArgsOf {
  TensorRow* rows;
  const int32_t* active;
  int32_t first, count;
  const void* grads[kCapacity];
};
using SetGradsArgs = SetGradsArgsOf<kMaxGrads>;

// One launch, of one block: begins a step (links, whether to skip it, schedules), advances the
// active rows' steps, prepares their coefficients, and ends the step (records, counters).
struct PrologueArgs {
  StepTables* tables;
  TensorRow* rows;
  const int32_t* active;
  int64_t num_active;
  const int32_t* rules;  // of each group: an index into Rules
  double* coeffs;        // kMaxCoeffs for each row
  bool begins, ends;     // whether this launch does so
};

// One launch over the chunks of all tensors that share a rule and a storage.
struct UpdateArgs {
  const StepTables* tables;
  const TensorRow* rows;
  const int64_t* layouts;  // see DeviceLayout
  const Chunk* chunks;
  int64_t num_chunks;
  const double* coeffs;
};

// What an update is compiled for: one storage for all operands, which lie alike; or any storage and
// any layout, with a branch for every access.
enum class Storage : uint8_t { float64, float32, bfloat16, float16, any };
constexpr int kNumStorages = static_cast<int>(Storage::any) + 1;

// The storage to update a row with, whose rule has so many states.
inline Storage storage_of(const TensorRow& row, int num_states) {
  const bool is_uniform = row.layout < 0 && row.grad_dtype == row.param_dtype &&
                          (num_states == 0 || row.state_dtype == row.param_dtype);
  return is_uniform ? static_cast<Storage>(row.param_dtype) : Storage::any;
}

enum class Composition : int32_t { none, sequential, chained };

struct SchedulerRow;

// What the host tells of a scheduler.
struct SchedulerSettings {
  Composition composition = Composition::none;
  int32_t schedule = 0;          // an index into Schedules
  int32_t counts_steps = 0;      // whether its steps are counted where the caller asks for that
  int32_t momentum_column = -1;  // of hypers, or -1
  double parameters[kMaxParameters] = {};
  const double* table = nullptr;  // milestones or phases
  int64_t table_size = 0;
  const StepFunction* functions = nullptr;  // at least one
  int64_t num_functions = 1;
  int64_t num_groups = 0;                      // those that the following knows
  const int64_t* function_of_group = nullptr;  // with several functions
  const double* columns = nullptr;             // [num_columns, num_groups]
  SchedulerRow* const* children = nullptr;
  int64_t num_children = 0;
  // Room for what a step writes.
  Moves* moves = nullptr;     // for each function
  double* last_lr = nullptr;  // [num_groups]
};

// One scheduler. Where kernels step it, the row lies in device memory and stays where it is: a
// captured graph knows its address only. What follows the settings is the device's own.
struct SchedulerRow : SchedulerSettings {
  ScheduleClock clock;
  int64_t num_moves = 0;  // how often it has moved the groups
  // Of the step that is under way.
  bool is_closed = false;         // by the closed form
  SchedulerRow* next = nullptr;   // which one moves after this one
  SchedulerRow* first = nullptr;  // which one moves first, if this one is the root
};

// One launch, of one block: a step of a scheduler and of all that it is made of.
struct ScheduleArgs {
  const StepTables* tables;
  SchedulerRow* root;
  bool has_epoch, is_initial, is_jump, counts;
  double epoch;
  const void* metric;  // on the device, or null: then `metric_value`
  Dtype metric_dtype;
  double metric_value;
};

// How to walk a tensor whose operands do not lie in memory alike: `num_dims`, the sizes (outermost
// first), then the strides of each of kMaxOperands operands, all in elements. A row's `layout` is
// the place of the first word.
struct DeviceLayout {
  const int64_t* words;

  // Where the element `index` of the walk lies in each of the first kOperands operands.
  template <int kOperands>
  FUSEDLR_HOST_DEVICE void locate(int64_t index, int64_t (&offsets)[kOperands]) const {
    const int64_t num_dims = words[0];
    const int64_t* sizes = words + 1;
    FUSEDLR_UNROLL
    for (int operand = 0; operand < kOperands; ++operand) offsets[operand] = 0;
    FUSEDLR_NO_UNROLL
    for (int64_t dim = num_dims - 1; dim >= 0; --dim) {
      const int64_t place = index % sizes[dim];
      index /= sizes[dim];
      const int64_t* strides = sizes + num_dims + dim;
      FUSEDLR_UNROLL
      for (int operand = 0; operand < kOperands; ++operand) {
        offsets[operand] += place * strides[operand * num_dims];
      }
    }
  }
};

}  // namespace fusedlr
