// A device that runs kernels: what the bindings know of it. Kinds: a CUDA device; any that Triton
// has kernels for; and the host, which walks the same kernels thread by thread, so that all of this
// can be tested without a GPU.
#pragma once

#include "bindings/torch_headers.h"

#include <cstdint>
#include <string>
#include <utility>

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
  // Makes a block of device memory safe to free while the current stream still uses it.
  virtual void record_stream(const at::Tensor& memory) = 0;
  // Which stream is the current one: a number that no other stream has.
  virtual int64_t stream_id() = 0;

  // Where its memory is.
  virtual c10::Device place() const = 0;
  // Zeroed memory of so many bytes (at least one).
  at::Tensor allocate(int64_t bytes);
  // Bytes of the host, through as many launches as it takes.
  void copy_(void* to, const void* from, int64_t size);
  // Copies to the host, and waits for it; throws while a graph is being captured.
  void read(void* to, const void* from, int64_t size);
  // How often the host has waited so far.
  int64_t num_waits() const { return num_waits_; }

 protected:
  virtual void wait_for_(void* to, const void* from, int64_t size) = 0;

 private:
  int64_t num_waits_ = 0;
};

// Notices when launches go to another stream than before: what they use must then live until both
// are done with it.
class StreamWatch {
 public:
  explicit StreamWatch(Device& device) : stream_id_(device.stream_id()) {}
  bool has_changed_(Device& device) {
    const int64_t before = std::exchange(stream_id_, device.stream_id());
    return before != stream_id_;
  }

 private:
  int64_t stream_id_;
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
