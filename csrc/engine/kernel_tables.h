// What kernels read: plain data that lies in device memory, or travels as a kernel's arguments.
//
// Whatever the host has to tell the device travels as arguments: stream-ordered, without a buffer
// that must stay alive, and right inside a captured graph. What may change after a capture lies
// behind one pointer that does not: StepTables.
#pragma once

#include <cstdint>

#include "engine/plan_tables.h"
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

  FUSEDLR_HOST_DEVICE double& slot(TablePlace place) const {
    return place.column < 0 ? lr[place.group] : hypers[place.group * num_hypers + place.column];
  }
};

// One piece of a tensor: the elements [number, number + 1) * kDeviceChunkElements of a row.
struct Chunk {
  int32_t row, number;
};

// Where the host has written numbers of the group table.
constexpr int kMaxNumbers = 2000;
struct WriteNumbersArgs {
  const StepTables* tables;
  int32_t count;
  TablePlace places[kMaxNumbers];
  double values[kMaxNumbers];
};

// `size` bytes from the host.
constexpr int kMaxBytes = 32'000;
struct CopyBytesArgs {
  void* to;
  int32_t size;
  alignas(8) unsigned char bytes[kMaxBytes];
};

// The gradients of the active rows [first, first + count).
constexpr int kMaxGrads = 4'000;
struct SetGradsArgs {
  TensorRow* rows;
  const int32_t* active;
  int32_t first, count;
  const void* grads[kMaxGrads];
};

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

// What a kernel is compiled for: storage that is known at compile time, or any (a branch for every
// access, and any layout).
enum class Storage : uint8_t { float64, float32, bfloat16, float16, any };

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
// first), then the strides of each of kMaxOperands operands, all in elements.
struct DeviceLayout {
  const int64_t* words;

  FUSEDLR_HOST_DEVICE int64_t offset(int operand, int64_t index) const {
    const int64_t num_dims = words[0];
    const int64_t* sizes = words + 1;
    const int64_t* strides = sizes + num_dims * (1 + operand);
    int64_t offset = 0;
    for (int64_t dim = num_dims - 1; dim >= 0; --dim) {
      offset += index % sizes[dim] * strides[dim];
      index /= sizes[dim];
    }
    return offset;
  }
};

}  // namespace fusedlr
