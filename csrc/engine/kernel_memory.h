// 16 bytes at a time: the widest access of a device, and the one that needs the fewest of them.
#pragma once

#include <cstdint>
#include <cstring>

#include "math/host_device.h"

namespace fusedlr {

// Registers cannot be indexed at run time: a loop over an array in registers is unrolled. And a
// loop over memory is not, beyond what it says itself: that would take registers for no gain.
#ifdef __CUDA_ARCH__
#define FUSEDLR_UNROLL _Pragma("unroll")
#define FUSEDLR_NO_UNROLL _Pragma("unroll 1")
#else
#define FUSEDLR_UNROLL
#define FUSEDLR_NO_UNROLL
#endif

constexpr int kVectorBytes = 16;

template <int kBytes>
FUSEDLR_HOST_DEVICE bool is_aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % kBytes == 0;
}

// Elements that lie side by side. As words, because a compiler keeps those in registers; arrays of
// 16-bit elements it does not.
template <class Element>
class alignas(kVectorBytes) Vector {
 public:
  static constexpr int kSize = kVectorBytes / sizeof(Element);

  // `from` and `to` are aligned to kVectorBytes. (A device copies byte by byte in memcpy; a host
  // may not look at elements as if they were words.)
  static FUSEDLR_HOST_DEVICE Vector load(const Element* from) {
#ifdef __CUDA_ARCH__
    return *reinterpret_cast<const Vector*>(from);
#else
    Vector vector;
    memcpy(vector.words_, from, sizeof(vector));
    return vector;
#endif
  }

  FUSEDLR_HOST_DEVICE void store(Element* to) const {
#ifdef __CUDA_ARCH__
    *reinterpret_cast<Vector*>(to) = *this;
#else
    memcpy(to, words_, sizeof(*this));
#endif
  }

  FUSEDLR_HOST_DEVICE Element get(int i) const {
    Element element;
    if constexpr (sizeof(Element) == 2) {
      const auto bits = static_cast<uint16_t>(words_[i / 2] >> (i % 2 * 16));
      memcpy(&element, &bits, sizeof(element));
    } else {
      memcpy(&element, &words_[i * kWords], sizeof(element));
    }
    return element;
  }

  FUSEDLR_HOST_DEVICE void set(int i, Element element) {
    if constexpr (sizeof(Element) == 2) {
      uint16_t bits;
      memcpy(&bits, &element, sizeof(bits));
      const int shift = i % 2 * 16;
      words_[i / 2] = (words_[i / 2] & ~(0xffffu << shift)) | static_cast<uint32_t>(bits) << shift;
    } else {
      memcpy(&words_[i * kWords], &element, sizeof(element));
    }
  }

 private:
  static constexpr int kWords = sizeof(Element) / sizeof(uint32_t);
  uint32_t words_[kVectorBytes / sizeof(uint32_t)];
};

// Tensors lie in global memory. Told so, a compiler need not look at each address.
FUSEDLR_HOST_DEVICE void assume_global([[maybe_unused]] const void* address) {
#ifdef __CUDA_ARCH__
  __builtin_assume(__isGlobal(address));
#endif
}

}  // namespace fusedlr
