// A device that runs kernels: what the bindings know of it. Two kinds: a CUDA device, and the host,
// which walks the same kernels thread by thread, so that all of this can be tested without a GPU.
#pragma once

#include "bindings/torch_headers.h"

#include <cstdint>

#include "engine/kernel_tables.h"

namespace fusedlr {

class Device {
 public:
  virtual ~Device() = default;

  // Launch a kernel on the current stream. The arguments are copied.
  virtual void launch(const CopyBytesArgs&) = 0;
  virtual void launch(const WriteNumbersArgs&) = 0;
  virtual void launch(const SetGradsArgs&) = 0;
  virtual void launch(const PrologueArgs&) = 0;
  virtual void launch(const UpdateArgs&, int rule, Storage storage) = 0;
  virtual void launch(const ScheduleArgs&) = 0;

  // Whether launches are being recorded into a graph instead of being run.
  virtual bool is_capturing() = 0;
  // Copies to the host, and waits for it.
  virtual void read(void* to, const void* from, int64_t size) = 0;
  // Makes a block of device memory safe to free while the current stream still uses it.
  virtual void record_stream(const at::Tensor& memory) = 0;

  // Where its memory is.
  virtual c10::Device place() const = 0;
  // Zeroed memory of so many bytes (at least one).
  at::Tensor allocate(int64_t bytes);
  // Bytes of the host, through as many launches as it takes.
  void copy_(void* to, const void* from, int64_t size);
};

// The device for tensors on `place`; throws if no engine of this kind is built.
Device& device_at(c10::Device place);

// How the devices of one type are found. Each kind registers itself when the extension is loaded.
using DeviceFinder = Device& (*)(c10::Device place);
struct DeviceRegistration {
  DeviceRegistration(c10::DeviceType type, DeviceFinder find);
};

void bind_device(py::module_& module);

}  // namespace fusedlr
