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

// Devices. No GPU has confirmed these yet. They are computed, for one that moves 5 TB/s through 132
// multiprocessors with a latency of 0.7 microseconds: each needs 27 KB in flight.

// Threads of an update's block. Few, so that thousands of tiny tensors find a block each at once.
constexpr int kUpdateThreads = 128;

// The 16-byte loads that a thread starts before it needs the first one. Two vectors of AdamW.
constexpr int kLoadsInFlight = 8;

// The blocks of an update that a multiprocessor holds at least: with 128 registers for a thread no
// kernel spills, and 512 threads have 64 KB in flight. That suffices while half of them look up
// their next chunk.
constexpr int kUpdateBlocks = 4;

// Where storage is known at run time only: the elements (float32 opmath) that a thread loads at a
// time, 2 to 8 bytes of each operand; and blocks, with 168 registers for a thread.
constexpr int kElementsInFlight = 4;
constexpr int kAnyUpdateBlocks = 3;

// A device chunk of AdamW in float32 takes a block about 15 microseconds, of which finding it takes
// half a microsecond; and a model of a million parameters still gives every multiprocessor work.
constexpr int kDeviceChunkElements = 4096;

// The one block that steps a clock or a scheduler: 128 registers for a thread, because schedules
// compute in double.
constexpr int kPhasedThreads = 512;

// Threads of a block that writes what came as arguments.
constexpr int kWriteThreads = 256;

}  // namespace fusedlr
