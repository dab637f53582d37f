// Compiles a function once per instruction set and picks the widest that the processor has, at load
// time. The loops stay plain C++: the compiler vectorises them.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FUSEDLR_SIMD_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FUSEDLR_SIMD_CLONES
#endif
