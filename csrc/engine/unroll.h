// Which loops of a kernel the compiler unrolls.
#pragma once

// Registers cannot be indexed at run time: a loop over an array in registers is unrolled. And a
// loop over memory is not, beyond what it says itself: that would take registers for no gain.
#ifdef __CUDA_ARCH__
#define FUSEDLR_UNROLL _Pragma("unroll")
#define FUSEDLR_NO_UNROLL _Pragma("unroll 1")
#else
#define FUSEDLR_UNROLL
#define FUSEDLR_NO_UNROLL
#endif
