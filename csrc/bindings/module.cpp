// fusedlr._C: everything that Python sees of the compiled engines.
#include <ATen/record_function.h>
#include "bindings/torch_headers.h"

#include <string>

#include "bindings/device.h"
#include "bindings/device_table.h"
#include "bindings/dtensor.h"
#include "bindings/expression.h"
#include "bindings/host_graph.h"
#include "bindings/kernel_layouts.h"
#include "bindings/live_tensors.h"
#include "bindings/plan.h"
#include "bindings/scheduler_node.h"
#include "bindings/step_clock.h"
#include "bindings/triton_device.h"

namespace {

// The instruction set that the loops of the CPU engine were dispatched to when this library was
// loaded.
std::string simd_level() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return "x86-64-v4 (AVX-512)";
  if (__builtin_cpu_supports("x86-64-v3")) return "x86-64-v3 (AVX2)";
  return "x86-64 (SSE2)";
#else
  return "compiler default";
#endif
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  fusedlr::bind_expression(module);
  fusedlr::bind_device_table(module);
  fusedlr::bind_plan(module);
  fusedlr::bind_dtensor(module);
  fusedlr::bind_live_tensors(module);
  fusedlr::bind_step_clock(module);
  fusedlr::bind_scheduler_node(module);
  fusedlr::bind_device(module);
  fusedlr::bind_host_graph(module);
  fusedlr::bind_triton_device(module);
  fusedlr::bind_kernel_layouts(module);
  module.def("simd_level", &simd_level);
  // Whether a profiler or another observer wants to see ranges such as "Optimizer.step#Adam.step".
  module.def("has_observers", [] { return at::hasCallbacks(); });
}
