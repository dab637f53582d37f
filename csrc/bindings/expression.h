// A compiled expression as an object that owns its instructions.
#pragma once

#include "bindings/torch_headers.h"

#include <string>
#include <tuple>
#include <vector>

#include "math/schedule.h"

namespace fusedlr {

class Expression {
 public:
  // fusedlr/expression.py's Instruction.
  using Line = std::tuple<std::string, int32_t, int32_t, int32_t, double>;

  // Throws std::invalid_argument if a line is none that an engine can evaluate.
  Expression(const std::vector<Line>& code, std::vector<double> tables);

  // The value at `step`. Allocates nothing; not for several threads at once.
  double operator()(double step) {
    return evaluate(code_.data(), static_cast<int64_t>(code_.size()), tables_.data(), step,
                    results_.data());
  }

  // Valid as long as this object stays where it is.
  StepFunction step_function() {
    return {code_.data(), static_cast<int64_t>(code_.size()), tables_.data(), results_.data()};
  }

  const std::vector<Instruction>& code() const { return code_; }
  const std::vector<double>& tables() const { return tables_; }

 private:
  std::vector<Instruction> code_;
  std::vector<double> tables_;
  std::vector<double> results_;
};

void bind_expression(py::module_& module);

}  // namespace fusedlr
