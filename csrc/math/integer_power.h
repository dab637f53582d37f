// base^exponent by squaring: the same multiplications, and so the same bits, on every engine.
#pragma once

#include <cstdint>

#include "math/host_device.h"

namespace fusedlr {

FUSEDLR_HOST_DEVICE double integer_power(double base, int64_t exponent) {
  double power = 1.0;
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) power *= base;
    base *= base;
  }
  return power;
}

}  // namespace fusedlr
