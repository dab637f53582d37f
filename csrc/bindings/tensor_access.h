// Reading tensors in the hot path of a step, without dispatcher, virtual calls or reference counts.
#pragma once

#include "bindings/torch_headers.h"

namespace fusedlr {

// The tensor's .grad, or an undefined tensor. (TensorImpl::grad() is the same behind two calls.)
inline const at::Tensor& grad_of(const c10::TensorImpl& impl) {
  static const at::Tensor undefined;
  const auto* meta = static_cast<const torch::autograd::AutogradMeta*>(impl.autograd_meta());
  return meta == nullptr ? undefined : meta->grad_;
}

// The first element of a strided tensor that is known to have storage.
inline void* data_of(const c10::TensorImpl& impl) {
  char* begin = static_cast<char*>(impl.unsafe_storage().mutable_data());
  return begin + impl.storage_offset() * static_cast<int64_t>(impl.dtype().itemsize());
}

inline const void* const_data_of(const c10::TensorImpl& impl) {
  const char* begin = static_cast<const char*>(impl.unsafe_storage().data());
  return begin + impl.storage_offset() * static_cast<int64_t>(impl.dtype().itemsize());
}

// The number in a tensor of one element; without the dispatcher for the usual ones.
inline double read_number(const at::Tensor& tensor) {
  if (tensor.is_cpu() && tensor.numel() == 1) {
    if (tensor.scalar_type() == at::kFloat) return *tensor.const_data_ptr<float>();
    if (tensor.scalar_type() == at::kDouble) return *tensor.const_data_ptr<double>();
  }
  return tensor.item().toDouble();
}

inline bool same_sizes(const c10::TensorImpl& a, const c10::TensorImpl& b) {
  const c10::IntArrayRef a_sizes = a.sizes(), b_sizes = b.sizes();
  if (a_sizes.size() != b_sizes.size()) return false;
  for (size_t dim = 0; dim < a_sizes.size(); ++dim) {
    if (a_sizes[dim] != b_sizes[dim]) return false;
  }
  return true;
}

}  // namespace fusedlr
