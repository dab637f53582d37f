// The host as a device that runs kernels: it walks them thread by thread. Tests prove with it,
// without a GPU, what happens on one.
#include <cstring>
#include <stdexcept>

#include "bindings/device.h"
#include "bindings/host_graph.h"
#include "engine/walked_engine.h"

namespace fusedlr {
namespace {

class WalkedDevice final : public Device {
 public:
  void launch(const CopyBytesArgs& args) override { walk(args); }
  void launch(const WriteNumbersArgs& args) override { walk(args); }
  void launch(const SetGradsArgs& args) override { walk(args); }
  void launch(const PrologueArgs& args) override { walk(args); }
  void launch(const UpdateArgs& args, int rule, Storage storage) override {
    walk(args, rule, storage);
  }
  void launch(const ScheduleArgs& args) override { walk(args); }

  bool is_capturing() override { return host::is_recording(); }
  void read(void* to, const void* from, int64_t size) override {
    if (is_capturing()) throw std::runtime_error("a graph that records cannot wait for a result");
    std::memcpy(to, from, size);
  }
  void record_stream(const at::Tensor&) override {}
  c10::Device place() const override { return c10::Device(c10::DeviceType::CPU); }

 private:
  template <class... Args>
  void walk(const Args&... args) {
    host::run_or_record([args...] { walked::launch(args...); });
  }
};

const DeviceRegistration registration("walked", c10::DeviceType::CPU, [](c10::Device) -> Device& {
  static WalkedDevice device;
  return device;
});

}  // namespace
}  // namespace fusedlr
