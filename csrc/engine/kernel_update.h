// The update kernel: walks the chunks of all tensors that share a rule and a storage.
#pragma once

#include <cstdint>

#include "engine/kernel_tables.h"
#include "engine/kernel_update_any.h"
#include "engine/kernel_update_uniform.h"
#include "engine/struct_of_doubles.h"
#include "engine/tuning.h"
#include "engine/unroll.h"
#include "math/host_device.h"
#include "math/rules.h"
#include "math/storage.h"

namespace fusedlr {

// What the operands of a uniform storage are, and what they are computed in.
template <Storage kStorage>
struct UniformStorage;
template <>
struct UniformStorage<Storage::float64> {
  using Element = double;
  using Opmath = double;
};
template <>
struct UniformStorage<Storage::float32> {
  using Element = float;
  using Opmath = float;
};
template <>
struct UniformStorage<Storage::bfloat16> {
  using Element = BFloat16;
  using Opmath = float;
};
template <>
struct UniformStorage<Storage::float16> {
  using Element = Float16;
  using Opmath = float;
};

template <class Rule, Storage kStorage>
struct Update {
  // The work of one thread of one block.
  static FUSEDLR_HOST_DEVICE void run(const UpdateArgs& args, int block, int num_blocks, int thread,
                                      int num_threads) {
    if (args.tables->counters->is_skipped != 0) return;
    FUSEDLR_NO_UNROLL
    for (int64_t i = block; i < args.num_chunks; i += num_blocks) {
      const Chunk chunk = args.chunks[i];
      const TensorRow row = args.rows[chunk.row];
      const int64_t begin = static_cast<int64_t>(chunk.number) * kDeviceChunkElements;
      const int64_t left = row.numel - begin;
      const int count = left < kDeviceChunkElements ? static_cast<int>(left) : kDeviceChunkElements;
      const auto coeffs =
          read_struct<typename Rule::Coeffs>(args.coeffs + int64_t{chunk.row} * kMaxCoeffs);
      if constexpr (kStorage == Storage::any) {
        const int64_t* layout = row.layout < 0 ? nullptr : args.layouts + row.layout;
        if (row.param_dtype == Dtype::float64) {
          AnyUpdate<Rule, double>::run(row, layout, coeffs, begin, count, thread, num_threads);
        } else {
          AnyUpdate<Rule, float>::run(row, layout, coeffs, begin, count, thread, num_threads);
        }
      } else {
        using Element = typename UniformStorage<kStorage>::Element;
        using Opmath = typename UniformStorage<kStorage>::Opmath;
        UniformUpdate<Rule, Element, Opmath>::run(row, coeffs, begin, count, thread, num_threads);
      }
    }
  }
};

}  // namespace fusedlr
