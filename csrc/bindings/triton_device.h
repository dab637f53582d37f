// Devices whose kernels are Triton's: launched by Python, compiled when they are first used.
#pragma once

#include "bindings/torch_headers.h"

namespace fusedlr {

void bind_triton_device(py::module_& module);

}  // namespace fusedlr
