// The host as a device that runs kernels: it walks them, and records them as a graph would. Tests
// prove with it, without a GPU, what happens on one.
#pragma once

#include "bindings/device.h"

#include <functional>
#include <utility>
#include <vector>

namespace fusedlr {

class WalkedDevice final : public Device {
 public:
  using Launches = std::vector<std::function<void()>>;

  static WalkedDevice& instance();

  void launch(const CopyBytesArgs& args) override;
  void launch(const WriteNumbersArgs& args) override;
  void launch(const SetGradsArgs& args) override;
  void launch(const PrologueArgs& args) override;
  void launch(const UpdateArgs& args, int rule, Storage storage) override;
  void launch(const ScheduleArgs& args) override;

  bool is_capturing() override { return recording_ != nullptr; }
  void record_stream(const at::Tensor&) override {}
  int64_t stream_id() override { return 0; }
  c10::Device place() const override { return c10::Device(c10::DeviceType::CPU); }

  // Launches go to `recording` instead of being walked, until it is null again.
  void record_to(Launches* recording);

 protected:
  void wait_for_(void* to, const void* from, int64_t size) override;

 private:
  void run_or_record(std::function<void()> launch);

  Launches* recording_ = nullptr;
};

void bind_walked_device(py::module_& module);

}  // namespace fusedlr
