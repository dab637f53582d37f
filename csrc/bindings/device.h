// A device that runs kernels: what the bindings know of it. Kinds: a CUDA device; any that Triton
// has kernels for; and the host, which walks the same kernels thread by thread, so that all of this
// can be tested without a GPU.
#pragma once

#include "bindings/torch_headers.h"

#include <cstdint>
#include <string>

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

  // Loads the kernel of an update that will be launched: a graph that is being captured cannot.
  virtual void load(int /*rule*/, Storage) {}

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

// The device on which an engine steps tensors of `place`; throws if it is not built for that.
Device& device_at(const std::string& engine, c10::Device place);

// How an engine finds its devices of one type. Each registers itself when the extension is loaded.
using DeviceFinder = Device& (*)(c10::Device place);
struct DeviceRegistration {
  DeviceRegistration(const char* engine, c10::DeviceType type, DeviceFinder find);
};

void bind_device(py::module_& module);

}  // namespace fusedlr
