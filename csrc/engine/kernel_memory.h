// 16 bytes at a time: the widest access of a device, and the one that needs the fewest of them.
#pragma once

#include <cstdint>
#include <cstring>

#include "math/host_device.h"

namespace fusedlr {

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

  // `from` and `to` are aligned to kVectorBytes. (On a device in its own words: a compiler does not
  // always see that four loads are one.)
  static FUSEDLR_HOST_DEVICE Vector load(const Element* from) {
    Vector vector;
#ifdef __CUDA_ARCH__
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(vector.words_[0]), "=r"(vector.words_[1]), "=r"(vector.words_[2]),
                   "=r"(vector.words_[3])
                 : "l"(__cvta_generic_to_global(from)));
#else
    memcpy(vector.words_, from, sizeof(vector));
#endif
    return vector;
  }

  FUSEDLR_HOST_DEVICE void store(Element* to) const {
#ifdef __CUDA_ARCH__
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
                 :
                 : "l"(__cvta_generic_to_global(to)), "r"(words_[0]), "r"(words_[1]),
                   "r"(words_[2]), "r"(words_[3])
                 : "memory");
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
