// The one macro that lets a formula compile for the host and for a CUDA device.
#pragma once

#ifdef __CUDACC__
#define FUSEDLR_HOST_DEVICE __host__ __device__ __forceinline__
#else
// Always inlined: a rule must become part of the vectorised loop that calls it.
#define FUSEDLR_HOST_DEVICE inline __attribute__((always_inline))
#endif
