// A formula of the step as plain data, and its evaluation in double: a list of instructions, which
// fusedlr/expression.py compiles. The meaning of the operations is written down there.
//
// Contract: the bits of CPython's floats and of its `math` on the same C library, so that a formula
// gives the same number whether Python or an engine evaluates it. Arithmetic is IEEE's: nothing
// traps, and what Python refuses is an infinity or NaN (`//` and `%` by zero are NaN). Instructions
// have been checked when they come here: each reads results of earlier ones only.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "math/host_device.h"

namespace fusedlr {

// In the order of kExpressionOps.
enum class ExpressionOp : int32_t {
  // clang-format off
  constant, step, table,
  add, sub, mul, div, floordiv, mod, pow,
  min, max, less, less_equal, equal,
  neg, abs, floor, ceil, trunc, round, logical_not,
  sqrt, exp, log, sin, cos, tan, tanh,
  select,
  // clang-format on
};

struct ExpressionOpFacts {
  const char* name;  // in fusedlr/expression.py
  int operands;      // how many of a, b, c are results of earlier instructions
};

constexpr ExpressionOpFacts kExpressionOps[] = {
    // clang-format off
    {"constant", 0}, {"step", 0}, {"table", 1},
    {"add", 2}, {"sub", 2}, {"mul", 2}, {"div", 2}, {"floordiv", 2}, {"mod", 2}, {"pow", 2},
    {"min", 2}, {"max", 2}, {"less", 2}, {"less_equal", 2}, {"equal", 2},
    {"neg", 1}, {"abs", 1}, {"floor", 1}, {"ceil", 1}, {"trunc", 1}, {"round", 1}, {"not", 1},
    {"sqrt", 1}, {"exp", 1}, {"log", 1}, {"sin", 1}, {"cos", 1}, {"tan", 1}, {"tanh", 1},
    {"select", 3},
    // clang-format on
};

constexpr int kNumExpressionOps = sizeof(kExpressionOps) / sizeof(kExpressionOps[0]);
static_assert(kNumExpressionOps == static_cast<int>(ExpressionOp::select) + 1);

struct Instruction {
  ExpressionOp op;
  int32_t a, b, c;  // operands; of a table: its index, its first entry in `tables`, its size
  double value;     // of a constant
};

// a % b of Python: the remainder has the sign of the divisor, also where it is zero.
FUSEDLR_HOST_DEVICE double floor_remainder(double a, double b) {
  if (b == 0) return std::numeric_limits<double>::quiet_NaN();
  const double remainder = std::fmod(a, b);
  if (remainder == 0) return std::copysign(0.0, b);
  return (b < 0) != (remainder < 0) ? remainder + b : remainder;
}

// a // b of Python, step by step: a division that is rounded could end up above the true quotient.
FUSEDLR_HOST_DEVICE double floor_quotient(double a, double b) {
  if (b == 0) return std::numeric_limits<double>::quiet_NaN();
  const double remainder = std::fmod(a, b);
  double quotient = (a - remainder) / b;
  if (remainder != 0 && (b < 0) != (remainder < 0)) quotient -= 1.0;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double below = std::floor(quotient);
  return quotient - below > 0.5 ? below + 1.0 : below;
}

// The place in a table: truncated, the first or the last entry outside of it; NaN is the first.
FUSEDLR_HOST_DEVICE int32_t table_place(double index, int32_t size) {
  const double last = size - 1;
  const double place = index > 0 ? index : 0.0;
  return static_cast<int32_t>(place < last ? place : last);
}

// One instruction, given the results of the earlier ones.
FUSEDLR_HOST_DEVICE double evaluate(const Instruction& instruction, const double* tables,
                                    double step, const double* results) {
  // Places that an operation does not use hold -1.
  const auto operand = [&](int32_t place) { return place < 0 ? 0.0 : results[place]; };
  const ExpressionOp op = instruction.op;
  const double a = operand(instruction.a);
  if (op == ExpressionOp::table) {
    return tables[instruction.b + table_place(a, instruction.c)];
  }
  const double b = operand(instruction.b);
  switch (op) {
    case ExpressionOp::constant:
      return instruction.value;
    case ExpressionOp::step:
      return step;
    case ExpressionOp::table:
      break;
    case ExpressionOp::add:
      return a + b;
    case ExpressionOp::sub:
      return a - b;
    case ExpressionOp::mul:
      return a * b;
    case ExpressionOp::div:
      return a / b;
    case ExpressionOp::floordiv:
      return floor_quotient(a, b);
    case ExpressionOp::mod:
      return floor_remainder(a, b);
    case ExpressionOp::pow:
      return std::pow(a, b);
    case ExpressionOp::min:
      return b < a ? b : a;
    case ExpressionOp::max:
      return b > a ? b : a;
    case ExpressionOp::less:
      return a < b ? 1.0 : 0.0;
    case ExpressionOp::less_equal:
      return a <= b ? 1.0 : 0.0;
    case ExpressionOp::equal:
      return a == b ? 1.0 : 0.0;
    case ExpressionOp::neg:
      return -a;
    case ExpressionOp::abs:
      return std::fabs(a);
    case ExpressionOp::floor:
      return std::floor(a);
    case ExpressionOp::ceil:
      return std::ceil(a);
    case ExpressionOp::trunc:
      return std::trunc(a);
    case ExpressionOp::round:
      return std::rint(a);
    case ExpressionOp::logical_not:
      return a == 0 ? 1.0 : 0.0;
    case ExpressionOp::sqrt:
      return std::sqrt(a);
    case ExpressionOp::exp:
      return std::exp(a);
    case ExpressionOp::log:
      return std::log(a);
    case ExpressionOp::sin:
      return std::sin(a);
    case ExpressionOp::cos:
      return std::cos(a);
    case ExpressionOp::tan:
      return std::tan(a);
    case ExpressionOp::tanh:
      return std::tanh(a);
    case ExpressionOp::select:
      return a != 0 ? b : operand(instruction.c);
  }
  return std::numeric_limits<double>::quiet_NaN();
}

// The value of a compiled expression at `step`: that of its last instruction. `results` is room for
// `size` (at least one) numbers.
FUSEDLR_HOST_DEVICE double evaluate(const Instruction* code, int64_t size, const double* tables,
                                    double step, double* results) {
  for (int64_t i = 0; i < size; ++i) results[i] = evaluate(code[i], tables, step, results);
  return results[size - 1];
}

}  // namespace fusedlr
