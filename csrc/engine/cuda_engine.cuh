// The CUDA engine: launches kernels on a stream of the current device. Every launch is checked, and
// throws std::runtime_error if it fails; its arguments are copied.
#pragma once

#include <cuda_runtime_api.h>

#include "engine/kernel_tables.h"

namespace fusedlr::cuda {

// Loads all kernels onto the current device, so that no launch has to: a stream that is being
// captured may not load one.
void load_kernels();

void launch(const CopyBytesArgs& args, cudaStream_t stream);
void launch(const WriteNumbersArgs& args, cudaStream_t stream);
void launch(const SetGradsArgs& args, cudaStream_t stream);
void launch(const PrologueArgs& args, cudaStream_t stream);
void launch(const UpdateArgs& args, int rule, Storage storage, cudaStream_t stream);
void launch(const ScheduleArgs& args, cudaStream_t stream);

}  // namespace fusedlr::cuda
