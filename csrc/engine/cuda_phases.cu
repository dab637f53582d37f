// The kernels of one block: what happens once per step, to all groups and all schedulers.
#include <stdexcept>

#include "engine/cuda_engine.cuh"
#include "engine/cuda_launch.cuh"

namespace fusedlr::cuda {

void load_phases() {
  // load(&phased_kernel<Prologue>);
}

void launch(const PrologueArgs&, cudaStream_t) {
  throw std::logic_error("kernel_prologue.h: launch_phases<Prologue>(args, stream)");
}

void launch(const ScheduleArgs&, cudaStream_t) {
  throw std::logic_error("kernel_schedule.h: launch_phases<ScheduleStep>(args, stream)");
}

}  // namespace fusedlr::cuda
