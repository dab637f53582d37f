// Launches on the host, which a graph records as it would on a device: so captures and replays are
// tested without a GPU.
#pragma once

#include "bindings/torch_headers.h"

#include <functional>

namespace fusedlr::host {

// Runs a launch; or only records it, while a graph does so.
void run_or_record(std::function<void()> launch);
bool is_recording();

}  // namespace fusedlr::host

namespace fusedlr {

void bind_host_graph(py::module_& module);

}  // namespace fusedlr
