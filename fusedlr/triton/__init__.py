"""The Triton engine: twins of the compiled kernels, for GPUs that those are not built for.

It walks the same tables as the CUDA engine (``csrc/engine/kernel_tables.h``), with kernels that
Triton compiles when they are first used. Nothing outside of this package imports Triton, and
nothing imports this package unless the engine is chosen.
"""
