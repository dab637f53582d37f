// From a rule and a storage to the kernel that is compiled for them, built from THE list of rules.
#pragma once

#include <tuple>

#include "engine/kernel_tables.h"
#include "math/rules.h"

namespace fusedlr {

constexpr int kNumRules = std::tuple_size_v<Rules>;

// kernels[rule][storage] is Kernel<Rule, storage>::kEntry.
template <template <class, Storage> class Kernel, class List = Rules>
struct KernelTable;

template <template <class, Storage> class Kernel, class... Rule>
struct KernelTable<Kernel, std::tuple<Rule...>> {
  using Entry = decltype(Kernel<std::tuple_element_t<0, Rules>, Storage::any>::kEntry);
  static constexpr Entry kernels[][kNumStorages] = {
      {Kernel<Rule, Storage::float64>::kEntry, Kernel<Rule, Storage::float32>::kEntry,
       Kernel<Rule, Storage::bfloat16>::kEntry, Kernel<Rule, Storage::float16>::kEntry,
       Kernel<Rule, Storage::any>::kEntry}...};

  static Entry find(int rule, Storage storage) { return kernels[rule][static_cast<int>(storage)]; }
};

}  // namespace fusedlr
