// Storage formats and their conversion to and from the type that arithmetic runs in (opmath).
//
// The conversions are integer arithmetic with selects instead of branches, so that a plain loop
// over them vectorises for every instruction set. A CUDA device has an instruction for each,
// without which an update of float16 would take longer than its memory. Every engine rounds alike:
// to nearest, ties to even. (Only the bits of a NaN differ.)
#pragma once

#include <cstdint>
#include <cstring>

#include "math/host_device.h"

namespace fusedlr {

enum class Dtype : uint8_t { float64, float32, bfloat16, float16 };

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

FUSEDLR_HOST_DEVICE uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

FUSEDLR_HOST_DEVICE float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

FUSEDLR_HOST_DEVICE float to_float(BFloat16 value) {
  return float_of(static_cast<uint32_t>(value.bits) << 16);
}

#ifdef __CUDA_ARCH__

FUSEDLR_HOST_DEVICE BFloat16 to_bfloat16(float value) {
  BFloat16 rounded;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(value));
  return rounded;
}

FUSEDLR_HOST_DEVICE float to_float(Float16 value) {
  float exact;
  asm("cvt.f32.f16 %0, %1;" : "=f"(exact) : "h"(value.bits));
  return exact;
}

FUSEDLR_HOST_DEVICE Float16 to_float16(float value) {
  Float16 rounded;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(value));
  return rounded;
}

#else

FUSEDLR_HOST_DEVICE BFloat16 to_bfloat16(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return {static_cast<uint16_t>(is_nan ? 0x7fc0u : rounded)};
}

FUSEDLR_HOST_DEVICE float to_float(Float16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t shifted = static_cast<uint32_t>(value.bits & 0x7fffu) << 13;
  // Multiplying by 2^112 rebiases the exponent and makes denormal halves normal floats, exactly.
  const uint32_t rebiased = bits_of(float_of(shifted) * float_of(0x77800000u));
  const bool is_inf_or_nan = (value.bits & 0x7c00u) == 0x7c00u;
  return float_of(sign | (is_inf_or_nan ? (shifted | 0x7f800000u) : rebiased));
}

FUSEDLR_HOST_DEVICE Float16 to_float16(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Normal halves: rebias the exponent (127 - 15 = 112), round the 13 dropped bits to even.
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Denormal halves: adding 0.5 aligns the last kept bit with a float's last bit, so the addition
  // rounds.
  const uint32_t denormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  uint32_t half = magnitude < (113u << 23) ? denormal : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;  // 65520 and above round to infinity
  half = magnitude > 0x7f800000u ? 0x7e00u : half;   // NaN
  return {static_cast<uint16_t>(sign | half)};
}

#endif

// load_as / store_as: one element between storage and opmath T (float or double).
template <class T>
FUSEDLR_HOST_DEVICE T load_as(double value) {
  return static_cast<T>(value);
}
template <class T>
FUSEDLR_HOST_DEVICE T load_as(float value) {
  return static_cast<T>(value);
}
template <class T>
FUSEDLR_HOST_DEVICE T load_as(BFloat16 value) {
  return static_cast<T>(to_float(value));
}
template <class T>
FUSEDLR_HOST_DEVICE T load_as(Float16 value) {
  return static_cast<T>(to_float(value));
}

template <class T>
FUSEDLR_HOST_DEVICE void store_as(double& to, T value) {
  to = static_cast<double>(value);
}
template <class T>
FUSEDLR_HOST_DEVICE void store_as(float& to, T value) {
  to = static_cast<float>(value);
}
template <class T>
FUSEDLR_HOST_DEVICE void store_as(BFloat16& to, T value) {
  to = to_bfloat16(static_cast<float>(value));
}
template <class T>
FUSEDLR_HOST_DEVICE void store_as(Float16& to, T value) {
  to = to_float16(static_cast<float>(value));
}

}  // namespace fusedlr
