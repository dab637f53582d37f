// The kernels of one block: what happens once per step, to all groups and all schedulers.
#include "engine/cuda_engine.cuh"
#include "engine/cuda_launch.cuh"
#include "engine/kernel_prologue.h"
#include "engine/kernel_schedule.h"

namespace fusedlr::cuda {

void load_phases() {
  load(&phased_kernel<Prologue>);
  load(&phased_kernel<ScheduleKernel>);
}

void launch(const PrologueArgs& args, cudaStream_t stream) {
  launch_phases<Prologue>(args, stream);
}

void launch(const ScheduleArgs& args, cudaStream_t stream) {
  launch_phases<ScheduleKernel>(args, stream);
}

}  // namespace fusedlr::cuda
