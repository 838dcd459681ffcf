#pragma once
// Storage types and the type in which their arithmetic is done. Conversions are integer and
// floating-point steps without branches, so that loops over half and bfloat16 vectorise everywhere.

#include <cstdint>
#include <cstring>

#include "macros.h"

namespace genkern {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <typename To, typename From>
GENKERN_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast: sizes differ");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// The arithmetic type: float32 for everything but float64.
template <typename T>
struct Arithmetic {
  using type = float;
};
template <>
struct Arithmetic<double> {
  using type = double;
};
template <typename T>
using arithmetic_t = typename Arithmetic<T>::type;

GENKERN_HD float load(float value) { return value; }
GENKERN_HD double load(double value) { return value; }
GENKERN_HD float load(BFloat16 value) { return bit_cast<float>(uint32_t{value.bits} << 16); }
GENKERN_HD float load(Half value) {
  const uint32_t magnitude = uint32_t(value.bits & 0x7fffu) << 13;
  const float normal = bit_cast<float>(magnitude) * 0x1p112f;  // also right for subnormal halves
  const uint32_t special =
      magnitude >= 0x0f800000u ? 0x7f800000u | (magnitude & 0x007fffffu) : bit_cast<uint32_t>(normal);
  return bit_cast<float>(special | (uint32_t(value.bits & 0x8000u) << 16));
}

template <typename T>
GENKERN_HD T store(arithmetic_t<T> value);
template <>
GENKERN_HD float store<float>(float value) {
  return value;
}
template <>
GENKERN_HD double store<double>(double value) {
  return value;
}
template <>
GENKERN_HD BFloat16 store<BFloat16>(float value) {  // round to nearest even
  const uint32_t bits = bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return {uint16_t(value == value ? rounded : 0x7fc0u)};
}
template <>
GENKERN_HD Half store<Half>(float value) {  // round to nearest even, subnormal halves included
  const uint32_t bits = bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  return {uint16_t(sign | half)};
}

}  // namespace genkern
