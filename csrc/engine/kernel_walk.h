// Walks a grid on the host, one thread after the other.
#pragma once

namespace fusedlr::walked {

// Few of each, so that threads stride over elements and blocks over chunks.
constexpr int kBlocks = 3;
constexpr int kThreads = 32;

// A body whose threads go their own ways.
template <class Body, class Args>
void walk(const Args& args) {
  for (int thread = 0; thread < kBlocks * kThreads; ++thread) {
    Body::run(args, thread, kBlocks * kThreads);
  }
}

// A body whose threads meet at the end of each phase, in one block:
//   using Args
//   static constexpr const char* kName
//   static constexpr int kPhases
//   static void run(int phase, const Args&, int thread, int num_threads)
template <class Body>
void walk_phases(const typename Body::Args& args) {
  for (int phase = 0; phase < Body::kPhases; ++phase) {
    for (int i = 0; i < kThreads; ++i) {
      // Every other phase backwards: within a phase, no thread may count on another one.
      const int thread = phase % 2 == 0 ? i : kThreads - 1 - i;
      Body::run(phase, args, thread, kThreads);
    }
  }
}

// A body whose blocks stride over chunks.
template <class Body, class Args>
void walk_blocks(const Args& args) {
  for (int block = 0; block < kBlocks; ++block) {
    for (int thread = 0; thread < kThreads; ++thread) {
      Body::run(args, block, kBlocks, thread, kThreads);
    }
  }
}

}  // namespace fusedlr::walked
