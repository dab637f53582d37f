// What the bindings need of torch: tensors and pybind11, a fraction of torch/extension.h, which
// takes four times as long to compile.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

namespace py = pybind11;
