// Runs every rule of the CPU engine over fixed numbers and writes all that it has changed, after
// each of a few steps, to standard output.
//
// With -DPLAIN_LOOPS the instruction set is what -march says; otherwise the engine picks its own.
#include <cstdio>
#include <string>

#include "engine/simd_dispatch.h"
#ifdef PLAIN_LOOPS
#undef FUSEDLR_SIMD_CLONES
#define FUSEDLR_SIMD_CLONES
#endif
#include "engine/cpu_engine.cpp"

namespace {

using namespace fusedlr;

constexpr int kSteps = 3;
constexpr int64_t kSizes[] = {1, 3, 15, 16, 17, 255, 257, 1031, 16385};
constexpr int64_t kRows = 37, kColumns = 29;

struct Storage {
  Dtype param, grad, state;
};
constexpr Storage kStorages[] = {
    {Dtype::float32, Dtype::float32, Dtype::float32},
    {Dtype::float64, Dtype::float64, Dtype::float64},
    {Dtype::bfloat16, Dtype::bfloat16, Dtype::float32},
    {Dtype::float16, Dtype::float16, Dtype::float16},
    {Dtype::float32, Dtype::bfloat16, Dtype::bfloat16},
    {Dtype::float64, Dtype::float32, Dtype::float16},
};

size_t bytes_of(Dtype dtype) {
  return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2;
}

// Numbers of either sign between 1e-41 and 2, most of them near 1; the same in every build.
class Numbers {
 public:
  double next() {
    seed_ = seed_ * 6364136223846793005u + 1442695040888963407u;
    const double uniform = static_cast<double>(seed_ >> 11) / 9007199254740992.0;
    const double sign = (seed_ >> 7) % 2 == 0 ? 1.0 : -1.0;
    const double scale = (seed_ >> 3) % 64 == 0 ? 1e-40 : (seed_ >> 3) % 64 == 1 ? 1e-6 : 1.0;
    return sign * scale * (0.1 + uniform);
  }

 private:
  uint64_t seed_ = 12345;
};

struct Buffer {
  Dtype dtype;
  int64_t numel;
  std::vector<uint64_t> words;

  Buffer(Dtype type, int64_t count)
      : dtype(type), numel(count), words((count * bytes_of(type) + 7) / 8) {}

  void fill(Numbers& numbers) {
    cpu::with_storage_type(dtype, words.data(), [&](auto* element) {
      for (int64_t i = 0; i < numel; ++i) store_as(element[i], numbers.next());
    });
  }
  void write() const { std::fwrite(words.data(), bytes_of(dtype), numel, stdout); }
};

double hyper_value(const std::string& name) {
  if (name == "beta1" || name == "momentum") return 0.9;
  if (name == "beta2") return 0.999;
  if (name == "eps") return 1e-8;
  if (name == "maximize") return 0.0;
  return 0.1;
}

// Whether every rule has moved the parameters, all but the shortest ones.
bool all_have_moved = true;

template <class Rule>
void run(int32_t rule, const Storage& storage, Numbers& numbers) {
  const double lr = 0.01;
  std::vector<double> hypers;
  for (const char* name : Rule::Hyper::kNames) hypers.push_back(hyper_value(name));
  PlanTables tables;
  tables.lr = &lr;
  tables.hypers = hypers.data();
  tables.num_hypers = static_cast<int64_t>(hypers.size());
  tables.rules = {rule};
  // The parameter lies column by column, everything else row by row.
  StridedLayout layout;
  layout.sizes = {kRows, kColumns};
  layout.strides[kParam] = {1, kRows};
  tables.layouts = {layout};

  std::vector<int64_t> sizes(std::begin(kSizes), std::end(kSizes));
  sizes.push_back(kRows * kColumns);
  std::vector<std::vector<Buffer>> operands;
  std::vector<float> steps(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) {
    TensorRow row;
    row.numel = sizes[i];
    row.step = &steps[i];
    row.layout = i + 1 == sizes.size() ? 0 : -1;
    row.param_dtype = storage.param;
    row.grad_dtype = storage.grad;
    row.state_dtype = storage.state;
    std::vector<Buffer>& buffers = operands.emplace_back();
    for (int operand = 0; operand < kFirstState + Rule::kStates; ++operand) {
      buffers.emplace_back(row.dtype(operand), row.numel);
      row.data[operand] = buffers.back().words.data();
    }
    buffers[kParam].fill(numbers);
    tables.tensors.push_back(row);
    tables.active.push_back(static_cast<int32_t>(i));
  }
  const std::vector<uint64_t> start = operands[operands.size() - 2][kParam].words;
  cpu::build_chunks_(tables);
  for (int step = 0; step < kSteps; ++step) {
    for (std::vector<Buffer>& buffers : operands) buffers[kGrad].fill(numbers);
    cpu::prologue_(tables);
    cpu::update_(tables, 0, static_cast<int64_t>(tables.task_begin.size()) - 1);
    for (const std::vector<Buffer>& buffers : operands) {
      for (const Buffer& buffer : buffers) buffer.write();
    }
  }
  all_have_moved = all_have_moved && operands[operands.size() - 2][kParam].words != start;
}

template <class... Rule>
void run_all(const std::tuple<Rule...>*) {
  Numbers numbers;
  for (const Storage& storage : kStorages) {
    int32_t rule = 0;
    (run<Rule>(rule++, storage, numbers), ...);
  }
}

}  // namespace

int main() {
  run_all(static_cast<const Rules*>(nullptr));
  return all_have_moved ? 0 : 1;
}
