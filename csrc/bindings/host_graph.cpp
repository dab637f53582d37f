#include "bindings/host_graph.h"

#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

namespace fusedlr {
namespace host {
namespace {

using Launches = std::vector<std::function<void()>>;

Launches* recording = nullptr;

// A graph of launches on the host, used as torch.cuda.CUDAGraph is.
class Graph {
 public:
  ~Graph() {
    if (is_open_) recording = nullptr;
  }

  void begin_() {
    if (recording != nullptr) {
      throw std::runtime_error("another graph records already: call its end_() first");
    }
    launches_.clear();
    recording = &launches_;
    is_open_ = true;
  }

  void end_() {
    if (!is_open_) throw std::runtime_error("this graph does not record: call begin_() first");
    recording = nullptr;
    is_open_ = false;
  }

  void replay_() const {
    if (is_open_) throw std::runtime_error("this graph still records: call end_() first");
    for (const auto& launch : launches_) launch();
  }

  int64_t size() const { return static_cast<int64_t>(launches_.size()); }

 private:
  Launches launches_;
  bool is_open_ = false;
};

}  // namespace

void run_or_record(std::function<void()> launch) {
  if (recording == nullptr) return launch();
  recording->push_back(std::move(launch));
}

bool is_recording() { return recording != nullptr; }

}  // namespace host

void bind_host_graph(py::module_& module) {
  using host::Graph;
  py::class_<Graph>(module, "HostGraph")
      .def(py::init<>())
      .def("begin_", &Graph::begin_)
      .def("end_", &Graph::end_)
      .def("replay_", &Graph::replay_)
      .def_property_readonly("size", &Graph::size);
}

}  // namespace fusedlr
