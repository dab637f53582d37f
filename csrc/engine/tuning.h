// Tuning constants, each with the measurement that chose it.
#pragma once

#include <cstdint>

namespace fusedlr {

// A chunk is a fixed-size piece of one tensor. 16,384 elements of AdamW in float32 are 256 KiB, so
// a chunk and its successor share a level-2 cache.
constexpr int64_t kChunkElements = 16384;

// A task is a run of chunks for one thread; a plan of one task runs on the calling thread, because
// waking a thread pool costs several microseconds (and 35 ms were seen when the cores are busy).
constexpr int64_t kTaskElements = 32768;

// Elements that are converted at a time when storage differs from opmath: five buffers of 512
// doubles stay within a level-1 cache of 32 KiB.
constexpr int64_t kBlockElements = 512;

// Tensors that one thread looks at when a step gathers its gradients; about 12 microseconds of
// work.
constexpr int64_t kGatherGrain = 512;

// How many tensors ahead a step fetches what it needs from memory. 2,000 tensors of 64 elements,
// which do not fit a level-2 cache, are gathered a fifth faster for it and updated a tenth faster;
// 8 and 16 ahead gain less.
constexpr size_t kPrefetchDistance = 4;

// Cache lines that are fetched of each operand then: a tensor of 64 floats.
constexpr int kPrefetchLines = 4;

}  // namespace fusedlr
