#include "bindings/kernel_layouts.h"

#include <cstdint>
#include <tuple>

#include "engine/kernel_tables.h"
#include "engine/tuning.h"
#include "math/expression.h"
#include "math/rules.h"
#include "math/schedule.h"

namespace fusedlr {
namespace {

// In bytes. Base is where the field is declared: Struct, or what it is derived from.
template <class Struct, class Base, class Field>
int64_t offset_in(Field Base::* field) {
  static const Struct object{};
  return reinterpret_cast<const char*>(&(object.*field)) - reinterpret_cast<const char*>(&object);
}

#define FUSEDLR_STRUCT(name) \
  using Struct = name;       \
  py::dict offsets;          \
  offsets["size"] = sizeof(Struct)
#define FUSEDLR_FIELD(name) offsets[#name] = offset_in<Struct>(&Struct::name)

py::dict tensor_row() {
  FUSEDLR_STRUCT(TensorRow);
  FUSEDLR_FIELD(data);
  FUSEDLR_FIELD(step);
  FUSEDLR_FIELD(numel);
  FUSEDLR_FIELD(group);
  FUSEDLR_FIELD(layout);
  FUSEDLR_FIELD(param_dtype);
  FUSEDLR_FIELD(grad_dtype);
  FUSEDLR_FIELD(state_dtype);
  FUSEDLR_FIELD(step_dtype);
  return offsets;
}

py::dict chunk() {
  FUSEDLR_STRUCT(Chunk);
  FUSEDLR_FIELD(row);
  FUSEDLR_FIELD(number);
  return offsets;
}

py::dict table_place() {
  FUSEDLR_STRUCT(TablePlace);
  FUSEDLR_FIELD(group);
  FUSEDLR_FIELD(column);
  return offsets;
}

py::dict step_counters() {
  FUSEDLR_STRUCT(StepCounters);
  FUSEDLR_FIELD(completed);
  FUSEDLR_FIELD(skipped);
  FUSEDLR_FIELD(is_skipped);
  return offsets;
}

py::dict schedule_formula() {
  FUSEDLR_STRUCT(ScheduleFormula);
  FUSEDLR_FIELD(code);
  // Not `size`, which is that of the struct.
  offsets["code_size"] = offset_in<Struct>(&Struct::size);
  FUSEDLR_FIELD(tables);
  FUSEDLR_FIELD(results);
  return offsets;
}

py::dict scheduled_place() {
  FUSEDLR_STRUCT(ScheduledPlace);
  FUSEDLR_FIELD(place);
  FUSEDLR_FIELD(formula);
  return offsets;
}

py::dict live_link() {
  FUSEDLR_STRUCT(LiveLink);
  FUSEDLR_FIELD(place);
  FUSEDLR_FIELD(tensor_dtype);
  FUSEDLR_FIELD(source_dtype);
  FUSEDLR_FIELD(tensor);
  FUSEDLR_FIELD(source);
  FUSEDLR_FIELD(tensor_value);
  FUSEDLR_FIELD(source_value);
  FUSEDLR_FIELD(slot_value);
  return offsets;
}

py::dict step_record() {
  FUSEDLR_STRUCT(StepRecord);
  FUSEDLR_FIELD(memory);
  FUSEDLR_FIELD(capacity);
  FUSEDLR_FIELD(places);
  FUSEDLR_FIELD(num_places);
  return offsets;
}

py::dict step_tables() {
  FUSEDLR_STRUCT(StepTables);
  FUSEDLR_FIELD(lr);
  FUSEDLR_FIELD(hypers);
  FUSEDLR_FIELD(num_groups);
  FUSEDLR_FIELD(num_hypers);
  FUSEDLR_FIELD(counters);
  FUSEDLR_FIELD(found_inf);
  FUSEDLR_FIELD(found_inf_dtype);
  FUSEDLR_FIELD(formulas);
  FUSEDLR_FIELD(num_formulas);
  FUSEDLR_FIELD(scheduled);
  FUSEDLR_FIELD(num_scheduled);
  FUSEDLR_FIELD(links);
  FUSEDLR_FIELD(num_links);
  FUSEDLR_FIELD(records);
  FUSEDLR_FIELD(num_records);
  return offsets;
}

py::dict instruction() {
  FUSEDLR_STRUCT(Instruction);
  FUSEDLR_FIELD(op);
  FUSEDLR_FIELD(a);
  FUSEDLR_FIELD(b);
  FUSEDLR_FIELD(c);
  FUSEDLR_FIELD(value);
  return offsets;
}

py::dict step_function() {
  FUSEDLR_STRUCT(StepFunction);
  FUSEDLR_FIELD(code);
  offsets["code_size"] = offset_in<Struct>(&Struct::size);
  FUSEDLR_FIELD(tables);
  FUSEDLR_FIELD(results);
  FUSEDLR_FIELD(value);
  return offsets;
}

py::dict move() {
  FUSEDLR_STRUCT(Move);
  FUSEDLR_FIELD(kind);
  FUSEDLR_FIELD(a);
  FUSEDLR_FIELD(b);
  FUSEDLR_FIELD(from);
  FUSEDLR_FIELD(to);
  return offsets;
}

py::dict moves() {
  FUSEDLR_STRUCT(Moves);
  FUSEDLR_FIELD(lr);
  FUSEDLR_FIELD(momentum);
  FUSEDLR_FIELD(is_past_the_end);
  FUSEDLR_FIELD(total_steps);
  return offsets;
}

py::dict schedule_clock() {
  FUSEDLR_STRUCT(ScheduleClock);
  FUSEDLR_FIELD(last_epoch);
  FUSEDLR_FIELD(step_count);
  FUSEDLR_FIELD(T_cur);
  FUSEDLR_FIELD(T_i);
  FUSEDLR_FIELD(best);
  FUSEDLR_FIELD(num_bad_epochs);
  FUSEDLR_FIELD(cooldown_counter);
  return offsets;
}

// With the settings that it is derived from.
py::dict scheduler_row() {
  FUSEDLR_STRUCT(SchedulerRow);
  FUSEDLR_FIELD(composition);
  FUSEDLR_FIELD(schedule);
  FUSEDLR_FIELD(counts_steps);
  FUSEDLR_FIELD(momentum_column);
  FUSEDLR_FIELD(parameters);
  FUSEDLR_FIELD(table);
  FUSEDLR_FIELD(table_size);
  FUSEDLR_FIELD(functions);
  FUSEDLR_FIELD(num_functions);
  FUSEDLR_FIELD(num_groups);
  FUSEDLR_FIELD(function_of_group);
  FUSEDLR_FIELD(columns);
  FUSEDLR_FIELD(children);
  FUSEDLR_FIELD(num_children);
  FUSEDLR_FIELD(moves);
  FUSEDLR_FIELD(last_lr);
  FUSEDLR_FIELD(clock);
  FUSEDLR_FIELD(num_moves);
  FUSEDLR_FIELD(is_closed);
  FUSEDLR_FIELD(next);
  FUSEDLR_FIELD(first);
  return offsets;
}

#undef FUSEDLR_STRUCT
#undef FUSEDLR_FIELD

py::dict structs() {
  py::dict structs;
  structs["TensorRow"] = tensor_row();
  structs["Chunk"] = chunk();
  structs["TablePlace"] = table_place();
  structs["StepCounters"] = step_counters();
  structs["ScheduleFormula"] = schedule_formula();
  structs["ScheduledPlace"] = scheduled_place();
  structs["LiveLink"] = live_link();
  structs["StepRecord"] = step_record();
  structs["StepTables"] = step_tables();
  structs["Instruction"] = instruction();
  structs["StepFunction"] = step_function();
  structs["Move"] = move();
  structs["Moves"] = moves();
  structs["ScheduleClock"] = schedule_clock();
  structs["SchedulerRow"] = scheduler_row();
  return structs;
}

// Names of consecutive values, from 0 on.
template <class... Name>
py::dict in_order(const Name&... names) {
  py::dict values;
  ((values[names] = values.size()), ...);
  return values;
}

template <class... Item>
py::dict names_of(const std::tuple<Item...>*) {
  return in_order(Item::kName...);
}

py::dict enums() {
  py::dict enums;
  static_assert(static_cast<int>(Dtype::float16) == 3);
  enums["Dtype"] = in_order("float64", "float32", "bfloat16", "float16");
  static_assert(kNumStorages == 5);
  enums["Storage"] = in_order("float64", "float32", "bfloat16", "float16", "any");
  static_assert(static_cast<int>(Composition::chained) == 2);
  enums["Composition"] = in_order("none", "sequential", "chained");
  static_assert(static_cast<int>(MoveKind::reduce) == 11);
  enums["MoveKind"] = in_order("keep", "scale", "scale_from", "contract", "add_span", "span_above",
                               "cosine", "linear", "rise", "fall", "average", "reduce");
  py::dict ops;
  for (const ExpressionOpFacts& facts : kExpressionOps) ops[facts.name] = ops.size();
  enums["ExpressionOp"] = ops;
  static_assert(CyclicSchedule::custom == 3);
  enums["CyclicMode"] = in_order("triangular", "triangular2", "exp_range", "custom");
  static_assert(CyclicSchedule::max_momentum == 3);
  enums["CyclicColumn"] = in_order("base_lr", "max_lr", "base_momentum", "max_momentum");
  enums["Rule"] = names_of(static_cast<const Rules*>(nullptr));
  enums["Schedule"] = names_of(static_cast<const Schedules*>(nullptr));
  return enums;
}

py::dict constants() {
  py::dict constants;
  constants["MAX_OPERANDS"] = kMaxOperands;
  constants["MAX_COEFFS"] = kMaxCoeffs;
  constants["CHUNK_ELEMENTS"] = kDeviceChunkElements;
  constants["BASE_LR_COLUMN"] = kBaseLr;
  constants["SWA_LR_COLUMN"] = static_cast<int>(SwaSchedule::swa_lr);
  constants["ONE_CYCLE_PHASE_SIZE"] = OneCycleSchedule::kPhaseSize;
  return constants;
}

}  // namespace

void bind_kernel_layouts(py::module_& module) {
  // The offset of every field of the tables of kernels in bytes, with the size of each struct;
  // enumerations; constants.
  module.def("kernel_layouts", [] {
    py::dict layouts;
    layouts["structs"] = structs();
    layouts["enums"] = enums();
    layouts["constants"] = constants();
    return layouts;
  });
}

}  // namespace fusedlr
