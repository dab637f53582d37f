// Updates a piece of a tensor whose operands are all stored alike, in the order of the walk.
#pragma once

#include <cstdint>

#include "engine/kernel_memory.h"
#include "engine/kernel_rule.h"
#include "engine/plan_tables.h"
#include "engine/tuning.h"
#include "engine/unroll.h"
#include "math/host_device.h"
#include "math/storage.h"

namespace fusedlr {

template <class Rule, class Element, class Opmath>
class UniformUpdate {
 public:
  // The elements [begin, begin + count) of a row.
  static FUSEDLR_HOST_DEVICE void run(const TensorRow& row, const typename Rule::Coeffs& coeffs,
                                      int64_t begin, int count, int thread, int num_threads) {
    Operands data;
    bool is_wide = true;
    FUSEDLR_UNROLL
    for (int operand = 0; operand < kOperands; ++operand) {
      data[operand] = static_cast<Element*>(row.data[operand]) + begin;
      assume_global(data[operand]);
      is_wide = is_wide && is_aligned<kVectorBytes>(data[operand]);
    }
    const int num_vectors = is_wide ? count / kVectorSize : 0;
    int vector = thread;
    FUSEDLR_NO_UNROLL
    for (; vector + (kUnroll - 1) * num_threads < num_vectors; vector += kUnroll * num_threads) {
      update_vectors<kUnroll>(data, coeffs, vector, num_threads);
    }
    FUSEDLR_NO_UNROLL
    for (; vector < num_vectors; vector += num_threads) {
      update_vectors<1>(data, coeffs, vector, num_threads);
    }
    FUSEDLR_NO_UNROLL
    for (int i = num_vectors * kVectorSize + thread; i < count; i += num_threads) {
      update_element(data, coeffs, i);
    }
  }

 private:
  static constexpr int kOperands = kFirstState + Rule::kStates;
  static constexpr int kVectorSize = Vector<Element>::kSize;
  static constexpr int kUnroll = kLoadsInFlight / kOperands;
  static_assert(kUnroll >= 1);
  using Operands = Element* [kOperands];

  static FUSEDLR_HOST_DEVICE void update_element(const Operands& data,
                                                 const typename Rule::Coeffs& coeffs, int i) {
    Opmath values[kOperands];
    FUSEDLR_UNROLL
    for (int operand = 0; operand < kOperands; ++operand) {
      values[operand] = load_as<Opmath>(data[operand][i]);
    }
    apply_rule<Rule>(values, coeffs);
    FUSEDLR_UNROLL
    for (int operand = 0; operand < kOperands; ++operand) {
      if (operand != kGrad) store_as(data[operand][i], values[operand]);
    }
  }

  // The vectors `first`, first + stride... All loads come before the first use.
  template <int kVectors>
  static FUSEDLR_HOST_DEVICE void update_vectors(const Operands& data,
                                                 const typename Rule::Coeffs& coeffs, int first,
                                                 int stride) {
    Vector<Element> vectors[kVectors][kOperands];
    FUSEDLR_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      FUSEDLR_UNROLL
      for (int operand = 0; operand < kOperands; ++operand) {
        vectors[v][operand] =
            Vector<Element>::load(data[operand] + (first + v * stride) * kVectorSize);
      }
    }
    FUSEDLR_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      FUSEDLR_UNROLL
      for (int i = 0; i < kVectorSize; ++i) {
        Opmath values[kOperands];
        FUSEDLR_UNROLL
        for (int operand = 0; operand < kOperands; ++operand) {
          values[operand] = load_as<Opmath>(vectors[v][operand].get(i));
        }
        apply_rule<Rule>(values, coeffs);
        FUSEDLR_UNROLL
        for (int operand = 0; operand < kOperands; ++operand) {
          if (operand == kGrad) continue;
          Element element;
          store_as(element, values[operand]);
          vectors[v][operand].set(i, element);
        }
      }
      FUSEDLR_UNROLL
      for (int operand = 0; operand < kOperands; ++operand) {
        if (operand == kGrad) continue;
        vectors[v][operand].store(data[operand] + (first + v * stride) * kVectorSize);
      }
    }
  }
};

}  // namespace fusedlr
