// IEEE half precision in software, for the host build: values rounded to nearest even, subnormals kept.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

struct __half {
  uint16_t bits;
};

inline float __half2float(__half h) {
  const int exponent = h.bits >> 10 & 0x1f, fraction = h.bits & 0x3ff;
  float value;
  if (exponent == 0x1f)
    value = fraction ? NAN : INFINITY;
  else if (exponent == 0)
    value = std::ldexp(static_cast<float>(fraction), -24);
  else
    value = std::ldexp(static_cast<float>(fraction | 0x400), exponent - 25);
  return h.bits >> 15 ? -value : value;
}

inline __half __float2half(float x) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  if (std::isnan(x)) return {static_cast<uint16_t>(sign | 0x7e00)};
  const float size = std::fabs(x);
  if (size >= 65520.f) return {static_cast<uint16_t>(sign | 0x7c00)};
  int exponent = size == 0.f ? -14 : std::max(std::ilogb(size), -14);
  // In units of the last place; rounding up may carry into the exponent, which the addition below does by itself.
  const auto units = static_cast<uint32_t>(std::nearbyint(std::ldexp(size, 10 - exponent)));
  return {static_cast<uint16_t>(sign | (units + (static_cast<uint32_t>(exponent + 14) << 10)))};
}
