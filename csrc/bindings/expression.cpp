#include "bindings/expression.h"

#include <pybind11/stl.h>

#include <memory>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace fusedlr {
namespace {

template <class... Part>
[[noreturn]] void fail(const Part&... part) {
  std::ostringstream message;
  (message << ... << part);
  throw std::invalid_argument(message.str());
}

ExpressionOp find_op(const std::string& name, size_t place) {
  for (int op = 0; op < kNumExpressionOps; ++op) {
    if (name == kExpressionOps[op].name) return static_cast<ExpressionOp>(op);
  }
  fail("instruction ", place, " of an expression is the unknown operation '", name, "'");
}

}  // namespace

Expression::Expression(const std::vector<Line>& code, std::vector<double> tables)
    : tables_(std::move(tables)), results_(code.size()) {
  if (code.empty()) fail("an expression needs at least one instruction");
  for (size_t place = 0; place < code.size(); ++place) {
    const auto& [name, a, b, c, value] = code[place];
    const ExpressionOp op = find_op(name, place);
    int32_t operands[] = {a, b, c};
    const int count = kExpressionOps[static_cast<int>(op)].operands;
    for (int i = 0; i < count; ++i) {
      if (operands[i] >= 0 && operands[i] < static_cast<int64_t>(place)) continue;
      fail("operand ", i, " of instruction ", place, " ('", name, "') of an expression is ",
           operands[i], ", but must be the place of an earlier instruction");
    }
    if (op == ExpressionOp::table) {
      const auto entries = static_cast<int64_t>(tables_.size());
      if (b < 0 || c < 1 || int64_t{b} + c > entries) {
        fail("instruction ", place, " of an expression is a table of ", c, " entries from entry ",
             b, " on, but there are ", entries, " entries in all");
      }
    } else {
      for (int i = count; i < 3; ++i) operands[i] = -1;
    }
    code_.push_back({op, operands[0], operands[1], operands[2], value});
  }
}

void bind_expression(py::module_& module) {
  py::class_<Expression, std::shared_ptr<Expression>>(module, "Expression")
      .def(py::init<const std::vector<Expression::Line>&, std::vector<double>>(), py::arg("code"),
           py::arg("tables"))
      .def("__call__", &Expression::operator(), py::arg("step"));

  // The operations that an engine knows, with the number of their operands.
  module.def("expression_ops", [] {
    py::dict ops;
    for (const ExpressionOpFacts& facts : kExpressionOps) ops[facts.name] = facts.operands;
    return ops;
  });
}

}  // namespace fusedlr
