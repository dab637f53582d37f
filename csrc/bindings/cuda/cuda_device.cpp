// A CUDA device: launches go to torch's current stream of that device.
#include "bindings/device.h"

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <map>
#include <memory>
#include <mutex>

#include "engine/cuda_engine.cuh"

namespace fusedlr {
namespace {

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(c10::DeviceIndex index) : index_(index) {
    const c10::cuda::CUDAGuard guard(index_);
    cuda::load_kernels();
  }

  void launch(const CopyBytesArgs& args) override { launch_kernel(args); }
  void launch(const WriteNumbersArgs& args) override { launch_kernel(args); }
  void launch(const SetGradsArgs& args) override { launch_kernel(args); }
  void launch(const PrologueArgs& args) override { launch_kernel(args); }
  void launch(const UpdateArgs& args, int rule, Storage storage) override {
    launch_kernel(args, rule, storage);
  }
  void launch(const ScheduleArgs& args) override { launch_kernel(args); }

  bool is_capturing() override {
    const c10::cuda::CUDAGuard guard(index_);
    return c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
  }

  void read(void* to, const void* from, int64_t size) override {
    const c10::cuda::CUDAGuard guard(index_);
    // Also tells torch's set_sync_debug_mode that this waits.
    c10::cuda::memcpy_and_sync(to, from, size, cudaMemcpyDeviceToHost, stream());
  }

  void record_stream(const at::Tensor& memory) override {
    c10::cuda::CUDACachingAllocator::recordStream(memory.storage().data_ptr(), stream());
  }

  c10::Device place() const override { return c10::Device(c10::DeviceType::CUDA, index_); }

 private:
  c10::cuda::CUDAStream stream() const { return c10::cuda::getCurrentCUDAStream(index_); }

  template <class... Args>
  void launch_kernel(const Args&... args) {
    const c10::cuda::CUDAGuard guard(index_);
    cuda::launch(args..., stream());
  }

  const c10::DeviceIndex index_;
};

Device& find_device(c10::Device place) {
  static std::mutex mutex;
  static std::map<c10::DeviceIndex, std::unique_ptr<CudaDevice>> devices;
  const c10::DeviceIndex index = place.has_index() ? place.index() : c10::cuda::current_device();
  const std::lock_guard lock(mutex);
  std::unique_ptr<CudaDevice>& device = devices[index];
  if (device == nullptr) device = std::make_unique<CudaDevice>(index);
  return *device;
}

const DeviceRegistration registration("cuda", c10::DeviceType::CUDA, &find_device);

}  // namespace
}  // namespace fusedlr
