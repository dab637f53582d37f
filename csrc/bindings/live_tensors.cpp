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

void LiveTensors::set_table(at::Tensor lr, at::Tensor hypers) {
  lr_ = std::move(lr);
  hypers_ = std::move(hypers);
}

double& LiveTensors::slot(int64_t group, int64_t column) {
  if (column < 0) return lr_.mutable_data_ptr<double>()[group];
  return hypers_.mutable_data_ptr<double>()[group * hypers_.size(1) + column];
}

void LiveTensors::put(int64_t group, int64_t column, at::Tensor tensor,
                      const c10::optional<at::Tensor>& source) {
  Link link;
  link.tensor = std::move(tensor);
  link.tensor_value = link.source_value = read(link.tensor);
  if (source.has_value()) link.source = *source;
  link.slot_value = slot(group, column);
  links_[{group, column}] = std::move(link);
}

void LiveTensors::drop(int64_t group, int64_t column) { links_.erase({group, column}); }

void LiveTensors::sync_() {
  for (auto& [place, link] : links_) {
    double& table_value = slot(place.first, place.second);
    double value = read(link.tensor);
    if (value != link.tensor_value) {
      link.source.reset();
    } else if (table_value != link.slot_value) {
      write_(link.tensor, table_value);
      link.tensor_value = read(link.tensor);
      link.slot_value = table_value;
      link.source.reset();
      continue;
    } else if (link.source.defined() && read(link.source) != link.source_value) {
      link.source_value = read(link.source);
      write_(link.tensor, link.source_value);
      value = read(link.tensor);
    }
    if (value == link.tensor_value) continue;
    table_value = link.slot_value = link.tensor_value = value;
  }
}

void bind_live_tensors(py::module_& module) {
  py::class_<LiveTensors>(module, "LiveTensors")
      .def(py::init<>())
      .def("set_table", &LiveTensors::set_table, py::arg("lr"), py::arg("hypers"))
      .def("put", &LiveTensors::put, py::arg("group"), py::arg("column"), py::arg("tensor"),
           py::arg("source"))
      .def("drop", &LiveTensors::drop, py::arg("group"), py::arg("column"))
      .def("sync_", &LiveTensors::sync_);
}

}  // namespace fusedlr
