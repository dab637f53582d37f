#include "bindings/layout.h"

#include <algorithm>

namespace fusedlr {

bool same_layout(const at::Tensor& a, const at::Tensor& b) {
  if (a.is_contiguous() && b.is_contiguous()) return true;
  for (int64_t dim = 0; dim < a.dim(); ++dim) {
    // The stride of a dimension of size one is never used.
    if (a.size(dim) != 1 && a.stride(dim) != b.stride(dim)) return false;
  }
  return true;
}

std::optional<StridedLayout> strided_layout(const std::vector<at::Tensor>& operands) {
  const at::Tensor& param = operands[kParam];
  std::vector<int64_t> dims;
  for (int64_t dim = 0; dim < param.dim(); ++dim) {
    if (param.size(dim) != 1) dims.push_back(dim);
  }
  if (dims.empty() || param.numel() == 0) return std::nullopt;
  if (param.is_non_overlapping_and_dense()) {
    std::stable_sort(dims.begin(), dims.end(),
                     [&](int64_t a, int64_t b) { return param.stride(a) > param.stride(b); });
  }

  StridedLayout layout;
  for (const int64_t dim : dims) layout.sizes.push_back(param.size(dim));
  const int64_t reals = param.is_complex() ? 2 : 1;
  if (reals == 2) layout.sizes.push_back(2);

  bool all_in_order = true;
  for (size_t operand = 0; operand < operands.size(); ++operand) {
    if (!operands[operand].defined()) continue;
    std::vector<int64_t> strides;
    for (const int64_t dim : dims) strides.push_back(operands[operand].stride(dim) * reals);
    if (reals == 2) strides.push_back(1);
    int64_t expected = 1;
    bool in_order = true;
    for (size_t dim = strides.size(); dim-- > 0; expected *= layout.sizes[dim]) {
      in_order &= strides[dim] == expected;
    }
    if (in_order) continue;
    all_in_order = false;
    layout.strides[operand] = std::move(strides);
  }
  if (all_in_order) return std::nullopt;
  return layout;
}

}  // namespace fusedlr
