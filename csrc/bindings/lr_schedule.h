#pragma once

#include <pybind11/stl.h>
#include "bindings/torch_headers.h"

namespace fusedlr {

void bind_lr_schedule(py::module_& module);

}  // namespace fusedlr
