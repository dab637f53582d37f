#include "bindings/device.h"

#include <ATen/ops/zeros.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace fusedlr {
namespace {

using Finders = std::map<std::string, std::map<c10::DeviceType, DeviceFinder>>;

Finders& finders() {
  static Finders finders;
  return finders;
}

}  // namespace

DeviceRegistration::DeviceRegistration(const char* engine, c10::DeviceType type,
                                       DeviceFinder find) {
  finders()[engine][type] = find;
}

Device& device_at(const std::string& engine, c10::Device place) {
  const std::map<c10::DeviceType, DeviceFinder>& of_engine = finders()[engine];
  const auto finder = of_engine.find(place.type());
  if (finder == of_engine.end()) {
    throw std::runtime_error("fusedlr was built without a '" + engine + "' engine for " +
                             place.str() + "; fusedlr.backend_info() tells what is built");
  }
  return finder->second(place);
}

at::Tensor Device::allocate(int64_t bytes) {
  return at::zeros({std::max<int64_t>(bytes, 1)},
                   at::TensorOptions().dtype(at::kByte).device(place()));
}

void Device::copy_(void* to, const void* from, int64_t size) {
  CopyBytesArgs args;
  for (int64_t done = 0; done < size; done += args.size) {
    args.to = static_cast<char*>(to) + done;
    args.size = static_cast<int32_t>(std::min<int64_t>(size - done, kMaxBytes));
    std::memcpy(args.bytes, static_cast<const char*>(from) + done, args.size);
    launch(args);
  }
}

void Device::read(void* to, const void* from, int64_t size) {
  if (is_capturing()) {
    throw std::runtime_error(
        "a number of the device is asked for while a graph is being captured, which cannot wait "
        "for it; read it before or after the capture");
  }
  ++num_waits_;
  wait_for_(to, from, size);
}

void bind_device(py::module_& module) {
  module.def(
      "num_waits",
      [](const std::string& engine, c10::Device place) {
        return device_at(engine, place).num_waits();
      },
      py::arg("engine"), py::arg("place"));
  // The engines that run kernels, each with the types of device that it was built for.
  module.def("kernel_engines", [] {
    std::map<std::string, std::vector<std::string>> engines;
    for (const auto& [engine, of_engine] : finders()) {
      for (const auto& [type, find] : of_engine) {
        engines[engine].push_back(c10::DeviceTypeName(type, true));
      }
    }
    return engines;
  });
}

}  // namespace fusedlr
