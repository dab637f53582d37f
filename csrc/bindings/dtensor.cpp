#include "bindings/dtensor.h"

#include <ATen/core/grad_mode.h>
#include <structmember.h>

#include <string>

#include "bindings/tensor_access.h"

namespace fusedlr {
namespace {

// The place of a slot in the objects of a class; negative if the class has no such slot.
Py_ssize_t offset_of_slot(PyTypeObject* type, const char* name) {
  const py::object descriptor =
      py::getattr(py::handle(reinterpret_cast<PyObject*>(type)), name, py::none());
  if (Py_TYPE(descriptor.ptr()) != &PyMemberDescr_Type) return -1;
  const PyMemberDef* member = reinterpret_cast<PyMemberDescrObject*>(descriptor.ptr())->d_member;
  return member->type == T_OBJECT_EX ? member->offset : -1;
}

bool is_same(PyObject* spec, PyObject* other, const char* attribute) {
  const auto value_of = [&](PyObject* one) {
    return py::object(py::getattr(py::handle(one), attribute, py::none()));
  };
  return value_of(spec).equal(value_of(other));
}

py::object object_of(const at::Tensor& tensor) {
  return py::reinterpret_steal<py::object>(THPVariable_Wrap(tensor));
}

}  // namespace

DTensorSlots::DTensorSlots(PyTypeObject* type)
    : type_(type),
      local_offset_(offset_of_slot(type, "_local_tensor")),
      spec_offset_(offset_of_slot(type, "_spec")) {
  if (local_offset_ < 0 || spec_offset_ < 0) {
    throw py::type_error(std::string(type->tp_name) + " does not keep its local tensor in a slot");
  }
}

bool is_on_same_mesh(PyObject* spec, PyObject* other) { return is_same(spec, other, "mesh"); }

bool is_placed_alike(PyObject* spec, PyObject* other) {
  // The order of shards is something that not every version of torch knows.
  return spec == other || (is_on_same_mesh(spec, other) && is_same(spec, other, "placements") &&
                           is_same(spec, other, "shard_order"));
}

std::string describe_spec(PyObject* spec) {
  const py::handle object(spec);
  return "placements " + std::string(py::str(object.attr("placements"))) + " on " +
         std::string(py::str(object.attr("mesh")));
}

std::string class_name(const at::Tensor& tensor) {
  return Py_TYPE(object_of(tensor).ptr())->tp_name;
}

bool can_be_waited_for(const at::Tensor& tensor) { return py::hasattr(object_of(tensor), "wait"); }

at::Tensor waited_for(const at::Tensor& result) {
  if (!is_wrapper(result)) return result;
  return py::cast<at::Tensor>(object_of(result).attr("wait")());
}

at::Tensor redistributed(const at::Tensor& dtensor, PyObject* spec) {
  const at::NoGradGuard no_grad;
  const py::handle target(spec);
  const py::object moved =
      object_of(dtensor).attr("redistribute")(py::arg("device_mesh") = target.attr("mesh"),
                                              py::arg("placements") = target.attr("placements"));
  return waited_for(py::cast<at::Tensor>(moved.attr("to_local")()));
}

void bind_dtensor(py::module_& module) {
  module.def(
      "has_shard_slots",
      [](const py::type& type) {
        auto* object = reinterpret_cast<PyTypeObject*>(type.ptr());
        return offset_of_slot(object, "_local_tensor") >= 0 && offset_of_slot(object, "_spec") >= 0;
      },
      py::arg("type"));
}

}  // namespace fusedlr
