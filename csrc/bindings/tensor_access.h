// Reading tensors in the hot path of a step, without dispatcher, virtual calls or reference counts.
#pragma once

#include "bindings/torch_headers.h"

#include "math/storage.h"

namespace fusedlr {

// The storage format of a tensor whose elements an engine can walk; complex numbers as their reals.
inline bool find_storage(at::ScalarType type, Dtype& dtype) {
  switch (type) {
    case at::kDouble:
    case at::kComplexDouble:
      dtype = Dtype::float64;
      return true;
    case at::kFloat:
    case at::kComplexFloat:
      dtype = Dtype::float32;
      return true;
    case at::kBFloat16:
      dtype = Dtype::bfloat16;
      return true;
    case at::kHalf:
      dtype = Dtype::float16;
      return true;
    default:
      return false;
  }
}

// Starts to load all that a step reads of a tensor, but for its storage.
inline void prefetch(const c10::TensorImpl& impl) {
  const char* begin = reinterpret_cast<const char*>(&impl);
  for (size_t line = 0; line < sizeof(impl); line += 64) __builtin_prefetch(begin + line);
}

// The tensor's .grad, or null. (TensorImpl::grad() is the same behind two calls.)
inline const c10::TensorImpl* grad_of(const c10::TensorImpl& impl) {
  const auto* meta = static_cast<const torch::autograd::AutogradMeta*>(impl.autograd_meta());
  if (meta == nullptr || !meta->grad_.defined()) return nullptr;
  return meta->grad_.unsafeGetTensorImpl();
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

// Whether a tensor hides its elements behind a dispatch in Python, as DTensor does: it has no data
// of its own that could be read.
inline bool is_wrapper(const at::Tensor& tensor) {
  return tensor.key_set().has(c10::DispatchKey::Python);
}

// The number in a tensor of one element; without the dispatcher for the usual ones.
inline double read_number(const at::Tensor& tensor) {
  if (tensor.is_cpu() && tensor.numel() == 1 && !is_wrapper(tensor)) {
    if (tensor.scalar_type() == at::kFloat) return *tensor.const_data_ptr<float>();
    if (tensor.scalar_type() == at::kDouble) return *tensor.const_data_ptr<double>();
  }
  return tensor.item().toDouble();
}

inline bool has_sizes(const c10::TensorImpl& impl, c10::IntArrayRef expected) {
  const c10::IntArrayRef sizes = impl.sizes();
  if (sizes.size() != expected.size()) return false;
  for (size_t dim = 0; dim < sizes.size(); ++dim) {
    if (sizes[dim] != expected[dim]) return false;
  }
  return true;
}

}  // namespace fusedlr
