#include "bindings/triton_device.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "bindings/device.h"
#include "bindings/host_graph.h"

namespace fusedlr {
namespace {

// An object of Python with a method for each launch; see fusedlr/triton/engine.py. It is never
// freed: when that would be its turn, there is no interpreter any more.
py::object& launcher() {
  static auto* launcher = new py::object();
  return *launcher;
}

int64_t address_of(const void* memory) { return reinterpret_cast<int64_t>(memory); }

// A kernel takes a double as an integer: Triton would pass a float.
int64_t bits_of(double number) {
  int64_t bits;
  std::memcpy(&bits, &number, sizeof(bits));
  return bits;
}

// A GPU, or the host if Triton interprets kernels there. What carries data of the host is copied
// into device memory before its kernel: on a GPU from pinned memory, so that nobody waits.
class TritonDevice final : public Device {
 public:
  explicit TritonDevice(c10::Device place) : place_(place) { call("load"); }

  void launch(const CopyBytesArgs& args) override {
    run_or_record(args, [this](const CopyBytesArgs& args) {
      const at::Tensor to = blob(args.to, args.size, place_);
      send_(to, {{args.bytes, args.size}});
    });
  }

  void launch(const WriteNumbersArgs& args) override {
    run_or_record(args, [this](const WriteNumbersArgs& args) {
      const int64_t places_size = args.count * sizeof(TablePlace);
      const int64_t values_size = args.count * sizeof(double);
      const at::Tensor sent = scratch(places_size + values_size);
      send_(sent, {{args.values, values_size}, {args.places, places_size}});
      const int64_t values = address_of(sent.const_data_ptr());
      call("write_numbers", address_of(args.tables), values + values_size, values, args.count);
    });
  }

  void launch(const SetGradsArgs& args) override {
    run_or_record(args, [this](const SetGradsArgs& args) {
      const int64_t size = args.count * sizeof(void*);
      const at::Tensor sent = scratch(size);
      send_(sent, {{args.grads, size}});
      call("set_grads", address_of(args.rows), address_of(args.active),
           address_of(sent.const_data_ptr()), args.first, args.count);
    });
  }

  void launch(const PrologueArgs& args) override {
    run_or_record(args, [this](const PrologueArgs& args) {
      call("prologue", address_of(args.tables), address_of(args.rows), address_of(args.active),
           args.num_active, address_of(args.rules), address_of(args.coeffs), args.begins,
           args.ends);
    });
  }

  void launch(const UpdateArgs& args, int rule, Storage storage) override {
    run_or_record(args, [this, rule, storage](const UpdateArgs& args) {
      call("update", address_of(args.tables), address_of(args.rows), address_of(args.layouts),
           address_of(args.chunks), args.num_chunks, address_of(args.coeffs), rule,
           static_cast<int>(storage));
    });
  }

  void launch(const ScheduleArgs& args) override {
    run_or_record(args, [this](const ScheduleArgs& args) {
      call("schedule", address_of(args.tables), address_of(args.root), args.has_epoch,
           args.is_initial, args.is_jump, args.counts, bits_of(args.epoch), address_of(args.metric),
           static_cast<int>(args.metric_dtype), bits_of(args.metric_value));
    });
  }

  void load(int rule, Storage storage) override {
    call("load_update", rule, static_cast<int>(storage));
  }

  bool is_capturing() override {
    if (is_host()) return host::is_recording();
    return call("is_capturing").cast<bool>();
  }

  void record_stream(const at::Tensor& memory) override {
    if (!is_host()) memory.record_stream(stream());
  }

  int64_t stream_id() override { return is_host() ? 0 : stream().id(); }

  c10::Device place() const override { return place_; }

 protected:
  void wait_for_(void* to, const void* from, int64_t size) override {
    const at::NoGradGuard no_grad;
    const c10::DeviceGuard guard(place_);
    blob(to, size, c10::kCPU).copy_(blob(const_cast<void*>(from), size, place_));
  }

 private:
  c10::Stream stream() const {
    return c10::impl::VirtualGuardImpl(place_.type()).getStream(place_);
  }

  bool is_host() const { return place_.is_cpu(); }

  template <class Args, class Launch>
  void run_or_record(const Args& args, Launch launch) {
    if (!is_host()) return launch(args);
    host::run_or_record([args, launch] { launch(args); });
  }

  template <class... Numbers>
  py::object call(const char* method, Numbers... numbers) {
    static_assert((std::is_integral_v<Numbers> && ...));
    const py::gil_scoped_acquire gil;
    if (!launcher()) {
      throw std::runtime_error("the Triton engine is not loaded: import fusedlr.triton.engine");
    }
    const c10::DeviceGuard guard(place_);
    return launcher().attr(method)(static_cast<int64_t>(numbers)...);
  }

  static at::Tensor blob(void* memory, int64_t size, c10::Device place) {
    return at::for_blob(memory, {size})
        .options(at::TensorOptions(place).dtype(at::kByte))
        .target_device(place)
        .make_tensor();
  }

  at::Tensor scratch(int64_t size) const {
    return at::empty({size}, at::TensorOptions().dtype(at::kByte).device(place_));
  }

  // Copies pieces of the host's memory, one behind the other.
  void send_(const at::Tensor& to, const std::vector<std::pair<const void*, int64_t>>& pieces) {
    const at::NoGradGuard no_grad;
    const c10::DeviceGuard guard(place_);
    const auto options = at::TensorOptions().dtype(at::kByte).pinned_memory(!is_host());
    const at::Tensor from = at::empty(to.sizes(), options);
    auto* end = static_cast<char*>(from.mutable_data_ptr());
    for (const auto& [bytes, size] : pieces) {
      std::memcpy(end, bytes, size);
      end += size;
    }
    to.copy_(from, /*non_blocking=*/true);
    // A graph reads it at every replay.
    if (!is_host() && is_capturing()) captured_.push_back(from);
  }

  const c10::Device place_;
  std::vector<at::Tensor> captured_;
};

Device& find_device(c10::Device place) {
  static std::mutex mutex;
  static std::map<c10::DeviceIndex, std::unique_ptr<TritonDevice>> devices;
  if (!place.is_cpu() && !place.has_index()) {
    place = c10::impl::VirtualGuardImpl(place.type()).getDevice();
  }
  // The host has the index -1. No lock while kernels are compiled: they need Python's, too.
  {
    const std::lock_guard lock(mutex);
    const auto found = devices.find(place.is_cpu() ? -1 : place.index());
    if (found != devices.end()) return *found->second;
  }
  auto device = std::make_unique<TritonDevice>(place.is_cpu() ? c10::Device(c10::kCPU) : place);
  const std::lock_guard lock(mutex);
  return *devices.try_emplace(place.is_cpu() ? -1 : place.index(), std::move(device)).first->second;
}

const DeviceRegistration on_gpus("triton", c10::DeviceType::CUDA, &find_device);
const DeviceRegistration on_the_host("triton", c10::DeviceType::CPU, &find_device);

}  // namespace

void bind_triton_device(py::module_& module) {
  module.def(
      "set_triton_launcher", [](py::object object) { launcher() = std::move(object); },
      py::arg("launcher"));
}

}  // namespace fusedlr
