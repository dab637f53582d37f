#include "bindings/live_tensors.h"

#include <ATen/core/grad_mode.h>

#include <limits>
#include <utility>

#include "bindings/tensor_access.h"

namespace fusedlr {
namespace {

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
  link.tensor_value = link.source_value = read_number(link.tensor);
  if (source.has_value()) link.source = *source;
  link.slot_value = slot(group, column);
  links_[{group, column}] = std::move(link);
}

void LiveTensors::drop(int64_t group, int64_t column) { links_.erase({group, column}); }

bool LiveTensors::follows_source(int64_t group, int64_t column) const {
  const auto link = links_.find({group, column});
  return link != links_.end() && link->second.source.defined();
}

void LiveTensors::sync_link_(const Place& place, Link& link) {
  double& table_value = slot(place.first, place.second);
  double value = read_number(link.tensor);
  if (value != link.tensor_value) {
    link.source.reset();
  } else if (table_value != link.slot_value) {
    write_(link.tensor, table_value);
    link.tensor_value = read_number(link.tensor);
    link.slot_value = table_value;
    link.source.reset();
    return;
  } else if (link.source.defined() && read_number(link.source) != link.source_value) {
    link.source_value = read_number(link.source);
    write_(link.tensor, link.source_value);
    value = read_number(link.tensor);
  }
  if (value == link.tensor_value) return;
  table_value = link.slot_value = link.tensor_value = value;
}

void LiveTensors::sync_() {
  for (auto& [place, link] : links_) sync_link_(place, link);
}

void LiveTensors::sync_group_(int64_t group) {
  const Place first{group, std::numeric_limits<int64_t>::min()};
  for (auto it = links_.lower_bound(first); it != links_.end() && it->first.first == group; ++it) {
    sync_link_(it->first, it->second);
  }
}

void bind_live_tensors(py::module_& module) {
  py::class_<LiveTensors>(module, "LiveTensors")
      .def(py::init<>())
      .def("set_table", &LiveTensors::set_table, py::arg("lr"), py::arg("hypers"))
      .def("put", &LiveTensors::put, py::arg("group"), py::arg("column"), py::arg("tensor"),
           py::arg("source"))
      .def("drop", &LiveTensors::drop, py::arg("group"), py::arg("column"))
      .def("follows_source", &LiveTensors::follows_source, py::arg("group"), py::arg("column"))
      .def("sync_", &LiveTensors::sync_)
      .def("sync_group_", &LiveTensors::sync_group_, py::arg("group"));
}

}  // namespace fusedlr
