#include "bindings/live_tensors.h"

#include <ATen/core/grad_mode.h>

#include <utility>

namespace fusedlr {
namespace {

double read(const at::Tensor& tensor) {
  if (tensor.is_cpu()) {  // no dispatcher: this runs in every step
    if (tensor.scalar_type() == at::kFloat) return *tensor.const_data_ptr<float>();
    if (tensor.scalar_type() == at::kDouble) return *tensor.const_data_ptr<double>();
  }
  return tensor.item().toDouble();
}

void write_(at::Tensor& tensor, double value) {
  const at::NoGradGuard no_grad;
  tensor.fill_(value);
}

}  // namespace

void LiveTensors::add(at::Tensor tensor, at::Tensor table, int64_t index,
                      c10::optional<at::Tensor> source) {
  Link link;
  link.slot = table.mutable_data_ptr<double>() + index;
  link.table = std::move(table);
  link.tensor = std::move(tensor);
  link.tensor_value = read(link.tensor);
  // Keep what the slot knows beyond the precision of the tensor.
  at::Tensor rounded = link.tensor.detach().clone();
  write_(rounded, *link.slot);
  if (read(rounded) != link.tensor_value) *link.slot = link.tensor_value;
  link.slot_value = *link.slot;
  // A tensor that differs from its source has gone its own way.
  if (source.has_value() && read(*source) == link.tensor_value) link.source = *source;
  link.source_value = link.tensor_value;
  links_.push_back(std::move(link));
}

void LiveTensors::refresh_() {
  for (Link& link : links_) {
    double value = read(link.tensor);
    if (link.source.defined()) {
      const double source_value = read(link.source);
      if (value != link.tensor_value) {
        link.source.reset();
      } else if (source_value != link.source_value) {
        write_(link.tensor, source_value);
        link.source_value = source_value;
        value = read(link.tensor);
      }
    }
    if (value == link.tensor_value) continue;
    *link.slot = link.slot_value = link.tensor_value = value;
  }
}

void LiveTensors::publish_() {
  for (Link& link : links_) {
    if (*link.slot == link.slot_value) continue;
    write_(link.tensor, *link.slot);
    link.tensor_value = read(link.tensor);
    link.slot_value = *link.slot;
    link.source.reset();
  }
}

void bind_live_tensors(py::module_& module) {
  py::class_<LiveTensors>(module, "LiveTensors")
      .def(py::init<>())
      .def("add", &LiveTensors::add, py::arg("tensor"), py::arg("table"), py::arg("index"),
           py::arg("source") = py::none())
      .def("refresh_", &LiveTensors::refresh_)
      .def("publish_", &LiveTensors::publish_);
}

}  // namespace fusedlr
