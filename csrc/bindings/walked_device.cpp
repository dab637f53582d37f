#include "bindings/walked_device.h"

#include <cstring>
#include <stdexcept>

#include "engine/walked_engine.h"

namespace fusedlr {
namespace {

const DeviceRegistration registration(c10::DeviceType::CPU, [](c10::Device) -> Device& {
  return WalkedDevice::instance();
});

// A graph of walked launches, used as torch.cuda.CUDAGraph is.
class WalkedGraph {
 public:
  ~WalkedGraph() {
    if (is_open_) WalkedDevice::instance().record_to(nullptr);
  }

  void begin_() {
    launches_.clear();
    WalkedDevice::instance().record_to(&launches_);
    is_open_ = true;
  }

  void end_() {
    if (!is_open_) throw std::runtime_error("this graph does not record: call begin_() first");
    WalkedDevice::instance().record_to(nullptr);
    is_open_ = false;
  }

  void replay_() const {
    if (is_open_) throw std::runtime_error("this graph still records: call end_() first");
    for (const auto& launch : launches_) launch();
  }

  int64_t size() const { return static_cast<int64_t>(launches_.size()); }

 private:
  WalkedDevice::Launches launches_;
  bool is_open_ = false;
};

}  // namespace

WalkedDevice& WalkedDevice::instance() {
  static WalkedDevice device;
  return device;
}

void WalkedDevice::run_or_record(std::function<void()> launch) {
  if (recording_ == nullptr) return launch();
  recording_->push_back(std::move(launch));
}

void WalkedDevice::launch(const CopyBytesArgs& args) {
  run_or_record([args] { walked::launch(args); });
}

void WalkedDevice::launch(const WriteNumbersArgs& args) {
  run_or_record([args] { walked::launch(args); });
}

void WalkedDevice::launch(const SetGradsArgs& args) {
  run_or_record([args] { walked::launch(args); });
}

void WalkedDevice::launch(const PrologueArgs& args) {
  run_or_record([args] { walked::launch(args); });
}

void WalkedDevice::launch(const UpdateArgs& args, int rule, Storage storage) {
  run_or_record([args, rule, storage] { walked::launch(args, rule, storage); });
}

void WalkedDevice::launch(const ScheduleArgs& args) {
  run_or_record([args] { walked::launch(args); });
}

void WalkedDevice::wait_for_(void* to, const void* from, int64_t size) {
  std::memcpy(to, from, size);
}

void WalkedDevice::record_to(Launches* recording) {
  if (recording != nullptr && recording_ != nullptr) {
    throw std::runtime_error("another graph records already: call its end_() first");
  }
  recording_ = recording;
}

void bind_walked_device(py::module_& module) {
  py::class_<WalkedGraph>(module, "WalkedGraph")
      .def(py::init<>())
      .def("begin_", &WalkedGraph::begin_)
      .def("end_", &WalkedGraph::end_)
      .def("replay_", &WalkedGraph::replay_)
      .def_property_readonly("size", &WalkedGraph::size);
}

}  // namespace fusedlr
