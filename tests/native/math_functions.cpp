// The functions of csrc/math that tests call one by one, with C names. Includes no torch header.
#include <cstddef>

#include "math/integer_power.h"
#include "math/schedule.h"
#include "math/storage.h"

using namespace fusedlr;

extern "C" {

void float16_to_float32(const uint16_t* from, float* to, size_t count) {
  for (size_t i = 0; i < count; ++i) to[i] = to_float(Float16{from[i]});
}

void bfloat16_to_float32(const uint16_t* from, float* to, size_t count) {
  for (size_t i = 0; i < count; ++i) to[i] = to_float(BFloat16{from[i]});
}

void float32_to_float16(const float* from, uint16_t* to, size_t count) {
  for (size_t i = 0; i < count; ++i) to[i] = to_float16(from[i]).bits;
}

void float32_to_bfloat16(const float* from, uint16_t* to, size_t count) {
  for (size_t i = 0; i < count; ++i) to[i] = to_bfloat16(from[i]).bits;
}

double power(double base, int64_t exponent) { return integer_power(base, exponent); }

double modulo(double a, double b) { return floor_remainder(a, b); }

}  // extern "C"
