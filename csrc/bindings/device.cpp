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

std::map<c10::DeviceType, DeviceFinder>& finders() {
  static std::map<c10::DeviceType, DeviceFinder> finders;
  return finders;
}

}  // namespace

DeviceRegistration::DeviceRegistration(c10::DeviceType type, DeviceFinder find) {
  finders()[type] = find;
}

Device& device_at(c10::Device place) {
  const auto finder = finders().find(place.type());
  if (finder == finders().end()) {
    throw std::runtime_error("fusedlr was built without kernels for " + place.str() +
                             "; fusedlr.backend_info() tells what is built");
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
        "for "
        "it; read it before or after the capture");
  }
  ++num_waits_;
  wait_for_(to, from, size);
}

void bind_device(py::module_& module) {
  module.def(
      "num_waits", [](c10::Device place) { return device_at(place).num_waits(); },
      py::arg("place"));
  // The types of device that kernels are built for. The host walks them, for tests.
  module.def("kernel_devices", [] {
    std::vector<std::string> names;
    for (const auto& [type, find] : finders()) names.push_back(c10::DeviceTypeName(type, true));
    return names;
  });
}

}  // namespace fusedlr
