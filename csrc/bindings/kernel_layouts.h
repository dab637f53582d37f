// Where the fields of the tables of kernels lie, and what their enumerations stand for: told to
// engines whose kernels are not compiled from the headers that declare them.
#pragma once

#include "bindings/torch_headers.h"

namespace fusedlr {

void bind_kernel_layouts(py::module_& module);

}  // namespace fusedlr
