// A struct of doubles (a rule's Hyper or Coeffs) as a piece of a table of doubles. By way of an
// array in registers: a device's memcpy of memory goes byte by byte.
#pragma once

#include <cstring>

#include "engine/unroll.h"
#include "math/host_device.h"

namespace fusedlr {

template <class Struct>
constexpr int kDoubles = sizeof(Struct) / sizeof(double);

template <class Struct>
FUSEDLR_HOST_DEVICE Struct read_struct(const double* from) {
  static_assert(sizeof(Struct) == sizeof(double) * kDoubles<Struct>);
  double numbers[kDoubles<Struct>];
  FUSEDLR_UNROLL
  for (int i = 0; i < kDoubles<Struct>; ++i) numbers[i] = from[i];
  Struct value;
  memcpy(&value, numbers, sizeof(value));
  return value;
}

template <class Struct>
FUSEDLR_HOST_DEVICE void write_struct_(double* to, const Struct& value) {
  static_assert(sizeof(Struct) == sizeof(double) * kDoubles<Struct>);
  double numbers[kDoubles<Struct>];
  memcpy(numbers, &value, sizeof(value));
  FUSEDLR_UNROLL
  for (int i = 0; i < kDoubles<Struct>; ++i) to[i] = numbers[i];
}

}  // namespace fusedlr
