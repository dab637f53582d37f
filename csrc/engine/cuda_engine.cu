#include "engine/cuda_engine.cuh"

#include <algorithm>
#include <array>
#include <atomic>
#include <stdexcept>
#include <string>

#include "engine/cuda_launch.cuh"
#include "engine/kernel_dispatch.h"
#include "engine/kernel_update.h"
#include "engine/kernel_writes.h"
#include "engine/tuning.h"

namespace fusedlr::cuda {
namespace {

template <class Body, class Args>
__global__ void __launch_bounds__(kWriteThreads) write_kernel(const __grid_constant__ Args args) {
  Body::run(args, blockIdx.x * kWriteThreads + threadIdx.x, gridDim.x * kWriteThreads);
}

template <class Rule, Storage kStorage>
__global__ void __launch_bounds__(kUpdateThreads,
                                  kStorage == Storage::any ? kAnyUpdateBlocks : kUpdateBlocks)
    update_kernel(const __grid_constant__ UpdateArgs args) {
  Update<Rule, kStorage>::run(args, blockIdx.x, gridDim.x, threadIdx.x, kUpdateThreads);
}

// Kernels whose arguments are what they write

bool driver_takes_large_arguments() {
  static const bool takes_them = [] {
    int version = 0;
    check(cudaDriverGetVersion(&version), "ask for the version of the CUDA driver");
    return version >= 12010;
  }();
  return takes_them;
}

template <class Body, class Args>
void launch_write(const Args& args, cudaStream_t stream) {
  const int blocks = (Body::size(args) + kWriteThreads - 1) / kWriteThreads;
  write_kernel<Body, Args><<<blocks, kWriteThreads, 0, stream>>>(args);
  check_launch(Body::kName);
}

template <class Body, class Args>
void launch_write_in_pieces(const Args& args, cudaStream_t stream) {
  const int size = Body::size(args);
  if (size > Body::kSmall && driver_takes_large_arguments()) {
    return launch_write<Body>(args, stream);
  }
  for (int begin = 0; begin < size; begin += Body::kSmall) {
    const int piece_size = std::min(Body::kSmall, size - begin);
    launch_write<Body>(Body::template piece<Body::kSmall>(args, begin, piece_size), stream);
  }
}

// Updates

struct UpdateKernel {
  void (*kernel)(UpdateArgs);
  const char* name;
};

template <class Rule, Storage kStorage>
struct CudaUpdate {
  static constexpr UpdateKernel kEntry{&update_kernel<Rule, kStorage>, Rule::kName};
};
using UpdateKernels = KernelTable<CudaUpdate>;

int count_resident_blocks(int rule, Storage storage, int device) {
  const UpdateKernel entry = UpdateKernels::find(rule, storage);
  int multiprocessors = 0, blocks = 0;
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
        "count the multiprocessors");
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, entry.kernel, kUpdateThreads, 0),
        "load an update kernel");
  return std::max(1, multiprocessors * blocks);
}

// The blocks of an update that the current device runs at once.
int resident_blocks(int rule, Storage storage) {
  constexpr int kMaxDevices = 64;
  using OfDevices = std::array<std::atomic<int>, kMaxDevices>;
  static std::array<std::array<OfDevices, kNumStorages>, kNumRules> known{};
  int device = 0;
  check(cudaGetDevice(&device), "ask for the current device");
  std::atomic<int>& blocks = known[rule][static_cast<int>(storage)].at(device);
  if (blocks == 0) blocks = count_resident_blocks(rule, storage, device);
  return blocks;
}

}  // namespace

void check(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // forgets it, or the next one to ask would take it for its own
  const bool is_for_other_gpus = error == cudaErrorNoKernelImageForDevice ||
                                 error == cudaErrorInvalidDeviceFunction ||
                                 error == cudaErrorUnsupportedPtxVersion;
  const char* hint = is_for_other_gpus
                         ? "the extension was built for other GPUs; build it again with "
                           "TORCH_CUDA_ARCH_LIST set to the compute capability of this one, which "
                           "must be 8.0 or newer"
                         : "an earlier kernel may be to blame; CUDA_LAUNCH_BLOCKING=1 shows which";
  throw std::runtime_error("fusedlr could not " + what + ": " + cudaGetErrorString(error) + " (" +
                           hint + ")");
}

void load_kernels() {
  load_phases();
  load(&write_kernel<CopyBytes, CopyBytesArgsOf<CopyBytes::kSmall>>);
  load(&write_kernel<WriteNumbers, WriteNumbersArgsOf<WriteNumbers::kSmall>>);
  load(&write_kernel<SetGrads, SetGradsArgsOf<SetGrads::kSmall>>);
  if (driver_takes_large_arguments()) {
    load(&write_kernel<CopyBytes, CopyBytesArgs>);
    load(&write_kernel<WriteNumbers, WriteNumbersArgs>);
    load(&write_kernel<SetGrads, SetGradsArgs>);
  }
  for (int rule = 0; rule < kNumRules; ++rule) {
    for (int storage = 0; storage < kNumStorages; ++storage) {
      resident_blocks(rule, static_cast<Storage>(storage));
    }
  }
}

void launch(const CopyBytesArgs& args, cudaStream_t stream) {
  launch_write_in_pieces<CopyBytes>(args, stream);
}

void launch(const WriteNumbersArgs& args, cudaStream_t stream) {
  launch_write_in_pieces<WriteNumbers>(args, stream);
}

void launch(const SetGradsArgs& args, cudaStream_t stream) {
  launch_write_in_pieces<SetGrads>(args, stream);
}

void launch(const UpdateArgs& args, int rule, Storage storage, cudaStream_t stream) {
  if (args.num_chunks == 0) return;
  const auto blocks =
      static_cast<int>(std::min<int64_t>(args.num_chunks, resident_blocks(rule, storage)));
  const UpdateKernel entry = UpdateKernels::find(rule, storage);
  entry.kernel<<<blocks, kUpdateThreads, 0, stream>>>(args);
  check_launch(entry.name);
}

}  // namespace fusedlr::cuda
