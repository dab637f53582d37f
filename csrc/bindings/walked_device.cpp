// The host as a device that runs kernels: it walks them thread by thread. Tests prove with it,
// without a GPU, what happens on one.
#include <cstring>

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
  void record_stream(const at::Tensor&) override {}
  int64_t stream_id() override { return 0; }
  c10::Device place() const override { return c10::Device(c10::DeviceType::CPU); }

 protected:
  void wait_for_(void* to, const void* from, int64_t size) override { std::memcpy(to, from, size); }

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
