// Kernels that bring what the host knows to the device: their arguments, nothing else.
//
// A body is a function of (arguments, thread, number of threads); `size` says how many threads find
// work. Arguments of any capacity can be taken apart.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/kernel_tables.h"
#include "math/host_device.h"

namespace fusedlr {

struct CopyBytes {
  static constexpr const char* kName = "copy_bytes";
  static constexpr int kSmall = kMaxBytes / kSmallShare;

  template <class Args>
  static FUSEDLR_HOST_DEVICE void run(const Args& args, int thread, int num_threads) {
    for (int i = thread; i < args.size; i += num_threads) {
      static_cast<unsigned char*>(args.to)[i] = args.bytes[i];
    }
  }

  template <class Args>
  static int size(const Args& args) {
    return args.size;
  }

  // The piece [begin, begin + size).
  template <int kCapacity, class Args>
  static CopyBytesArgsOf<kCapacity> piece(const Args& args, int begin, int size) {
    CopyBytesArgsOf<kCapacity> piece;
    piece.to = static_cast<unsigned char*>(args.to) + begin;
    piece.size = size;
    std::memcpy(piece.bytes, args.bytes + begin, size);
    return piece;
  }
};

struct WriteNumbers {
  static constexpr const char* kName = "write_numbers";
  static constexpr int kSmall = kMaxNumbers / kSmallShare;

  template <class Args>
  static FUSEDLR_HOST_DEVICE void run(const Args& args, int thread, int num_threads) {
    for (int i = thread; i < args.count; i += num_threads) {
      args.tables->slot(args.places[i]) = args.values[i];
    }
  }

  template <class Args>
  static int size(const Args& args) {
    return args.count;
  }

  template <int kCapacity, class Args>
  static WriteNumbersArgsOf<kCapacity> piece(const Args& args, int begin, int size) {
    WriteNumbersArgsOf<kCapacity> piece;
    piece.tables = args.tables;
    piece.count = size;
    std::memcpy(piece.places, args.places + begin, size * sizeof(args.places[0]));
    std::memcpy(piece.values, args.values + begin, size * sizeof(args.values[0]));
    return piece;
  }
};

struct SetGrads {
  static constexpr const char* kName = "set_grads";
  static constexpr int kSmall = kMaxGrads / kSmallShare;

  template <class Args>
  static FUSEDLR_HOST_DEVICE void run(const Args& args, int thread, int num_threads) {
    for (int i = thread; i < args.count; i += num_threads) {
      // Kernels only read through this pointer; the table has one type for all operands.
      args.rows[args.active[args.first + i]].data[kGrad] = const_cast<void*>(args.grads[i]);
    }
  }

  template <class Args>
  static int size(const Args& args) {
    return args.count;
  }

  template <int kCapacity, class Args>
  static SetGradsArgsOf<kCapacity> piece(const Args& args, int begin, int size) {
    SetGradsArgsOf<kCapacity> piece;
    piece.rows = args.rows;
    piece.active = args.active;
    piece.first = args.first + begin;
    piece.count = size;
    std::memcpy(piece.grads, args.grads + begin, size * sizeof(args.grads[0]));
    return piece;
  }
};

}  // namespace fusedlr
