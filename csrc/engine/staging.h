// Storage <-> opmath, a block at a time. Rules only ever see opmath; an operand that is stored in
// opmath and in the order of the walk is used where it lies.
#pragma once

#include <cstdint>

#include "engine/plan_tables.h"
#include "engine/simd_dispatch.h"
#include "engine/strided_copy.h"
#include "math/storage.h"

namespace fusedlr::cpu {

template <class T>
constexpr Dtype dtype_of();
template <>
constexpr Dtype dtype_of<float>() {
  return Dtype::float32;
}
template <>
constexpr Dtype dtype_of<double>() {
  return Dtype::float64;
}

template <class Visit>
void with_storage_type(Dtype dtype, void* data, Visit visit) {
  switch (dtype) {
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

template <class T, class Storage>
FUSEDLR_SIMD_CLONES void load_block(const Storage* __restrict from, T* __restrict to,
                                    int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = load_as<T>(from[i]);
}

template <class T, class Storage>
FUSEDLR_SIMD_CLONES void store_block(const T* __restrict from, Storage* __restrict to,
                                     int64_t count) {
  for (int64_t i = 0; i < count; ++i) store_as(to[i], from[i]);
}

// One operand of one tensor, seen in the order of the walk.
struct Operand {
  void* data;
  Dtype dtype;
  const StridedLayout* layout;          // null: lies in the order of the walk
  const std::vector<int64_t>* strides;  // with layout

  Operand(const PlanTables& tables, const TensorRow& row, int index)
      : data(row.data[index]), dtype(row.dtype(index)), layout(nullptr), strides(nullptr) {
    if (row.layout < 0) return;
    const StridedLayout& candidate = tables.layouts[row.layout];
    if (candidate.strides[index].empty()) return;
    layout = &candidate;
    strides = &candidate.strides[index];
  }

  template <class T>
  bool is_direct() const {
    return layout == nullptr && dtype == dtype_of<T>();
  }

  // The elements [begin, begin + count) as T: where they lie, or converted into `buffer`.
  template <class T>
  T* load(int64_t begin, int64_t count, T* buffer) const {
    if (is_direct<T>()) return static_cast<T*>(data) + begin;
    with_storage_type(dtype, data, [&](auto* storage) {
      if (layout == nullptr) return load_block<T>(storage + begin, buffer, count);
      for_each_run(*layout, *strides, begin, count,
                   [&](int64_t offset, int64_t stride, int64_t run, int64_t done) {
                     for (int64_t i = 0; i < run; ++i) {
                       buffer[done + i] = load_as<T>(storage[offset + i * stride]);
                     }
                   });
    });
    return buffer;
  }

  // Puts what load has returned, and the rule has changed, back into storage.
  template <class T>
  void store(int64_t begin, int64_t count, const T* block) const {
    if (is_direct<T>()) return;
    with_storage_type(dtype, data, [&](auto* storage) {
      if (layout == nullptr) return store_block<T>(block, storage + begin, count);
      for_each_run(*layout, *strides, begin, count,
                   [&](int64_t offset, int64_t stride, int64_t run, int64_t done) {
                     for (int64_t i = 0; i < run; ++i) {
                       store_as(storage[offset + i * stride], block[done + i]);
                     }
                   });
    });
  }
};

}  // namespace fusedlr::cpu
