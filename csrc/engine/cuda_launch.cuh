// How kernels are launched and loaded, and what an error says.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "engine/tuning.h"

namespace fusedlr::cuda {

// Throws std::runtime_error unless `error` is none: "fusedlr could not `what`: ...".
void check(cudaError_t error, const std::string& what);

// Checks the launch that has just been made.
inline void check_launch(const char* name) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) check(error, std::string("launch the kernel ") + name);
}

// Loads a kernel onto the current device.
template <class... Args>
void load(void (*kernel)(Args...)) {
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, kernel), "load a kernel");
}

// A body whose threads meet at the end of each phase, in one block; see kernel_walk.h.
template <class Body>
__global__ void __launch_bounds__(kPhasedThreads)
    phased_kernel(const __grid_constant__ typename Body::Args args) {
#pragma unroll
  for (int phase = 0; phase < Body::kPhases; ++phase) {
    if (phase > 0) __syncthreads();
    Body::run(phase, args, threadIdx.x, kPhasedThreads);
  }
}

template <class Body>
void launch_phases(const typename Body::Args& args, cudaStream_t stream) {
  phased_kernel<Body><<<1, kPhasedThreads, 0, stream>>>(args);
  check_launch(Body::kName);
}

// The kernels of cuda_phases.cu.
void load_phases();

}  // namespace fusedlr::cuda
