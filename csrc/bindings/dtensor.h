// The part of a DTensor that lies in this process.
#pragma once

#include "bindings/torch_headers.h"

#include <string>

namespace fusedlr {

// Where the objects of a class such as torch.distributed.tensor.DTensor keep the local tensor and
// the spec that says which part of the whole it is. Both are slots of the class, pointers at a
// fixed place of the object: they are read without Python's help and without reference counts, by
// many threads at a time.
class DTensorSlots {
 public:
  DTensorSlots() = default;
  // Throws if objects of the class keep them elsewhere.
  explicit DTensorSlots(PyTypeObject* type);

  // The Python object of a tensor of this class, or null if it is of another class.
  PyObject* object_of(const c10::TensorImpl& tensor) const {
    PyObject* object = tensor.pyobj_slot()->load_pyobj();
    return object != nullptr && Py_TYPE(object) == type_ ? object : nullptr;
  }

  // The local tensor, or null if it is not a plain one (such as the result of a collective that has
  // not been waited for).
  const at::Tensor* local_of(PyObject* object) const {
    PyObject* local = read(object, local_offset_);
    const bool is_plain = local != nullptr && THPVariable_CheckExact(local);
    return is_plain ? &THPVariable_Unpack(local) : nullptr;
  }

  PyObject* spec_of(PyObject* object) const { return read(object, spec_offset_); }

 private:
  static PyObject* read(PyObject* object, Py_ssize_t offset) {
    return *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + offset);
  }

  PyTypeObject* type_ = nullptr;
  Py_ssize_t local_offset_ = 0;
  Py_ssize_t spec_offset_ = 0;
};

// Whether tensors of these specs lie on the same mesh.
bool is_on_same_mesh(PyObject* spec, PyObject* other);
// Whether they lie there alike, part by part.
bool is_placed_alike(PyObject* spec, PyObject* other);
// Mesh and placements, as Python prints them.
std::string describe_spec(PyObject* spec);

// The local part of a DTensor after it was brought to the placements of `spec`. A collective
// operation: every process of the mesh has to make it. Waits for what is under way.
at::Tensor redistributed(const at::Tensor& dtensor, PyObject* spec);
// The tensor behind the result of a collective operation, once that is there.
at::Tensor waited_for(const at::Tensor& result);
// Whether a tensor is such a result.
bool can_be_waited_for(const at::Tensor& tensor);
// The name of its class in Python.
std::string class_name(const at::Tensor& tensor);

void bind_dtensor(py::module_& module);

}  // namespace fusedlr
