// Updates a piece of a tensor whose operands are stored and laid out in any way.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "engine/kernel_memory.h"
#include "engine/kernel_rule.h"
#include "engine/kernel_tables.h"
#include "engine/tuning.h"
#include "engine/unroll.h"
#include "math/host_device.h"
#include "math/storage.h"

namespace fusedlr {

template <class Rule, class Opmath>
class AnyUpdate {
 public:
  // The elements [begin, begin + count) of a row; `layout` is that of the row, or null.
  static FUSEDLR_HOST_DEVICE void run(const TensorRow& row, const int64_t* layout,
                                      const typename Rule::Coeffs& coeffs, int64_t begin, int count,
                                      int thread, int num_threads) {
    if (layout == nullptr) {
      TensorRow piece = row;
      FUSEDLR_UNROLL
      for (int operand = 0; operand < kOperands; ++operand) {
        with_storage(row, operand, [&](auto* data) { piece.data[operand] = data + begin; });
      }
      FUSEDLR_NO_UNROLL
      for (int i = thread; i < count; i += kInFlight * num_threads) {
        update(piece, coeffs, InOrder{i, count, num_threads});
      }
    } else {
      FUSEDLR_NO_UNROLL
      for (int i = thread; i < count; i += num_threads) {
        Strided places;
        DeviceLayout{layout}.locate(begin + i, places.offsets);
        update(row, coeffs, places);
      }
    }
  }

 private:
  static constexpr int kOperands = kFirstState + Rule::kStates;
  using Bits = std::conditional_t<std::is_same_v<Opmath, double>, uint64_t, uint32_t>;
  static constexpr int kInFlight =
      kElementsInFlight * static_cast<int>(sizeof(float)) / static_cast<int>(sizeof(Opmath));

  // Where the elements lie that a thread works on at a time. Several of them, because then it looks
  // once for all at the storage of an operand, and their loads follow each other without a branch.
  struct InOrder {
    static constexpr int kElements = kInFlight;
    int first, count, stride;

    FUSEDLR_HOST_DEVICE bool is_inside(int element) const {
      return first + element * stride < count;
    }
    // An element beyond the end is the first one once more; it is computed, but not stored.
    FUSEDLR_HOST_DEVICE int offset(int, int element) const {
      return is_inside(element) ? first + element * stride : first;
    }
  };

  struct Strided {
    static constexpr int kElements = 1;
    int64_t offsets[kOperands];

    FUSEDLR_HOST_DEVICE bool is_inside(int) const { return true; }
    FUSEDLR_HOST_DEVICE int64_t offset(int operand, int) const { return offsets[operand]; }
  };

  template <class Places>
  static FUSEDLR_HOST_DEVICE void update(const TensorRow& row, const typename Rule::Coeffs& coeffs,
                                         const Places& places) {
    constexpr int kElements = Places::kElements;
    // Loaded as bits and converted afterwards: a conversion would wait for its load, before the
    // next operand's begin.
    Bits bits[kElements][kOperands];
    FUSEDLR_UNROLL
    for (int operand = 0; operand < kOperands; ++operand) {
      with_storage(row, operand, [&](auto* data) {
        FUSEDLR_UNROLL
        for (int e = 0; e < kElements; ++e) {
          bits[e][operand] = to_bits(data[places.offset(operand, e)]);
        }
      });
    }
    Opmath values[kElements][kOperands];
    FUSEDLR_UNROLL
    for (int operand = 0; operand < kOperands; ++operand) {
      with_storage(row, operand, [&](auto* data) {
        using Element = std::decay_t<decltype(*data)>;
        FUSEDLR_UNROLL
        for (int e = 0; e < kElements; ++e) {
          values[e][operand] = from_bits<Element>(bits[e][operand]);
        }
      });
    }
    FUSEDLR_UNROLL
    for (int e = 0; e < kElements; ++e) apply_rule<Rule>(values[e], coeffs);
    store(row, kParam, places, values);
    FUSEDLR_UNROLL
    for (int operand = kFirstState; operand < kOperands; ++operand) {
      store(row, operand, places, values);
    }
  }

  template <class Places>
  static FUSEDLR_HOST_DEVICE void store(const TensorRow& row, int operand, const Places& places,
                                        const Opmath (&values)[Places::kElements][kOperands]) {
    with_storage(row, operand, [&](auto* data) {
      FUSEDLR_UNROLL
      for (int e = 0; e < Places::kElements; ++e) {
        if (places.is_inside(e)) store_as(data[places.offset(operand, e)], values[e][operand]);
      }
    });
  }

  // Calls visit with a pointer to what the operand stores.
  template <class Visit>
  static FUSEDLR_HOST_DEVICE void with_storage(const TensorRow& row, int operand,
                                               const Visit& visit) {
    void* data = row.data[operand];
    assume_global(data);
    switch (row.dtype(operand)) {
      case Dtype::float64:
        return visit(static_cast<double*>(data));
      case Dtype::float32:
        return visit(static_cast<float*>(data));
      case Dtype::bfloat16:
        return visit(static_cast<BFloat16*>(data));
      case Dtype::float16:
        return visit(static_cast<Float16*>(data));
    }
  }

  // An element as it is stored; what is wider than opmath is converted at once.
  template <class Element>
  static FUSEDLR_HOST_DEVICE Bits to_bits(Element element) {
    Bits bits = 0;
    if constexpr (sizeof(Element) <= sizeof(Bits)) {
      memcpy(&bits, &element, sizeof(element));
    } else {
      const auto value = load_as<Opmath>(element);
      memcpy(&bits, &value, sizeof(value));
    }
    return bits;
  }

  template <class Element>
  static FUSEDLR_HOST_DEVICE Opmath from_bits(Bits bits) {
    if constexpr (sizeof(Element) <= sizeof(Bits)) {
      Element element;
      memcpy(&element, &bits, sizeof(element));
      return load_as<Opmath>(element);
    } else {
      Opmath value;
      memcpy(&value, &bits, sizeof(value));
      return value;
    }
  }
};

}  // namespace fusedlr
