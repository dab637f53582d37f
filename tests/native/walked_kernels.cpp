// The kernels of a device, walked on the host, and the CPU engine on the same tables, with C names.
// Includes no torch header.
#include <cstddef>
#include <iterator>

#include "engine/cpu_engine.cpp"
#include "engine/kernel_walk.h"
#include "engine/walked_engine.cpp"

using namespace fusedlr;

namespace {

// One tensor, as tests describe it.
struct TestRow {
  void* data[kMaxOperands];
  int64_t numel;
  const int64_t* layout;  // the words of a DeviceLayout, or null
  int32_t dtypes[3];      // of param, grad and states
};

TensorRow to_row(const TestRow& test_row) {
  TensorRow row;
  std::copy(std::begin(test_row.data), std::end(test_row.data), row.data);
  row.numel = test_row.numel;
  row.param_dtype = static_cast<Dtype>(test_row.dtypes[0]);
  row.grad_dtype = static_cast<Dtype>(test_row.dtypes[1]);
  row.state_dtype = static_cast<Dtype>(test_row.dtypes[2]);
  return row;
}

StridedLayout to_layout(const int64_t* words) {
  const int64_t num_dims = *words++;
  StridedLayout layout;
  layout.sizes.assign(words, words + num_dims);
  for (auto& strides : layout.strides) {
    words += num_dims;
    strides.assign(words, words + num_dims);
  }
  return layout;
}

struct Step {
  int32_t rule;
  double lr;
  const double* hypers;
  int64_t num_hypers;
  double step;  // this one: counts from 1
};

template <class Rule>
void prepare(const Step& step, double* coeffs) {
  typename Rule::Hyper hyper;
  typename Rule::Memo memo;
  std::memcpy(&hyper, step.hypers, sizeof(hyper));
  const auto prepared = Rule::prepare(hyper, step.lr, static_cast<int64_t>(step.step), memo);
  std::memcpy(coeffs, &prepared, sizeof(prepared));
}

template <class... Rule>
void prepare_rule(const Step& step, double* coeffs, const std::tuple<Rule...>*) {
  constexpr void (*functions[])(const Step&, double*) = {&prepare<Rule>...};
  functions[step.rule](step, coeffs);
}

template <class... Rule>
int count_states(int32_t rule, const std::tuple<Rule...>*) {
  constexpr int states[] = {Rule::kStates...};
  return states[rule];
}

constexpr const Rules* kRules = nullptr;

// Needs every number of the first phase before it begins with the second one.
struct Neighbours {
  struct Args {
    const double* numbers;
    double* doubled;
    double* sums;
    int64_t size;
  };
  static constexpr const char* kName = "neighbours";
  static constexpr int kPhases = 2;

  static FUSEDLR_HOST_DEVICE void run(int phase, const Args& args, int thread, int num_threads) {
    for (int64_t i = thread; i < args.size; i += num_threads) {
      if (phase == 0) {
        args.doubled[i] = 2 * args.numbers[i];
      } else {
        args.sums[i] = args.doubled[(i + args.size - 1) % args.size] + args.doubled[i] +
                       args.doubled[(i + 1) % args.size];
      }
    }
  }
};

}  // namespace

extern "C" {

int64_t chunk_elements() { return kDeviceChunkElements; }

void update_by_cpu_engine(const Step* step, const TestRow* test_rows, int64_t num_rows) {
  PlanTables tables;
  tables.lr = &step->lr;
  tables.hypers = step->hypers;
  tables.num_hypers = step->num_hypers;
  tables.rules = {step->rule};
  std::vector<double> steps(num_rows, step->step - 1);
  for (int64_t i = 0; i < num_rows; ++i) {
    TensorRow row = to_row(test_rows[i]);
    row.step = &steps[i];
    row.step_dtype = Dtype::float64;
    if (test_rows[i].layout != nullptr) {
      row.layout = static_cast<int32_t>(tables.layouts.size());
      tables.layouts.push_back(to_layout(test_rows[i].layout));
    }
    tables.tensors.push_back(row);
    tables.active.push_back(static_cast<int32_t>(i));
  }
  cpu::build_chunks_(tables);
  cpu::prologue_(tables);
  cpu::update_(tables, 0, static_cast<int64_t>(tables.task_begin.size()) - 1);
}

// Returns a bit for each storage that was launched.
int update_by_walked_kernels(const Step* step, const TestRow* test_rows, int64_t num_rows,
                             bool is_skipped) {
  StepCounters counters{};
  counters.is_skipped = is_skipped;
  StepTables step_tables;
  step_tables.counters = &counters;
  std::vector<TensorRow> rows;
  std::vector<int64_t> layouts;
  std::vector<double> coeffs(num_rows * kMaxCoeffs);
  std::vector<Chunk> chunks[kNumStorages];
  for (int64_t i = 0; i < num_rows; ++i) {
    TensorRow row = to_row(test_rows[i]);
    if (const int64_t* words = test_rows[i].layout; words != nullptr) {
      row.layout = static_cast<int32_t>(layouts.size());
      layouts.insert(layouts.end(), words, words + 1 + words[0] * (1 + kMaxOperands));
    }
    rows.push_back(row);
    prepare_rule(*step, &coeffs[i * kMaxCoeffs], kRules);
    const Storage storage = storage_of(row, count_states(step->rule, kRules));
    for (int32_t number = 0; number * kDeviceChunkElements < row.numel; ++number) {
      chunks[static_cast<int>(storage)].push_back({static_cast<int32_t>(i), number});
    }
  }
  int launched = 0;
  for (int storage = 0; storage < kNumStorages; ++storage) {
    if (chunks[storage].empty()) continue;
    UpdateArgs args{};
    args.tables = &step_tables;
    args.rows = rows.data();
    args.layouts = layouts.data();
    args.chunks = chunks[storage].data();
    args.num_chunks = static_cast<int64_t>(chunks[storage].size());
    args.coeffs = coeffs.data();
    walked::launch(args, step->rule, static_cast<Storage>(storage));
    launched |= 1 << storage;
  }
  return launched;
}

// Copies through pieces of all sizes that arguments have.
void copy_bytes(void* to, const unsigned char* from, int32_t size, bool in_small_pieces) {
  CopyBytesArgs args;
  args.to = to;
  args.size = size;
  std::memcpy(args.bytes, from, size);
  if (!in_small_pieces) return walked::launch(args);
  for (int begin = 0; begin < size; begin += CopyBytes::kSmall) {
    const int piece = std::min(CopyBytes::kSmall, size - begin);
    walked::walk<CopyBytes>(CopyBytes::piece<CopyBytes::kSmall>(args, begin, piece));
  }
}

void write_numbers(double* lr, double* hypers, int64_t num_hypers, const int32_t* groups,
                   const int32_t* columns, const double* values, int32_t count,
                   bool in_small_pieces) {
  StepTables tables;
  tables.lr = lr;
  tables.hypers = hypers;
  tables.num_hypers = num_hypers;
  WriteNumbersArgs args;
  args.tables = &tables;
  args.count = count;
  for (int32_t i = 0; i < count; ++i) {
    args.places[i] = {groups[i], columns[i]};
    args.values[i] = values[i];
  }
  if (!in_small_pieces) return walked::launch(args);
  for (int begin = 0; begin < count; begin += WriteNumbers::kSmall) {
    const int piece = std::min(WriteNumbers::kSmall, count - begin);
    walked::walk<WriteNumbers>(WriteNumbers::piece<WriteNumbers::kSmall>(args, begin, piece));
  }
}

// Gives `seen[i]` the gradient of row i, of `num_rows`.
void set_grads(const void** seen, int64_t num_rows, const int32_t* active, int32_t first,
               const void* const* grads, int32_t count, bool in_small_pieces) {
  std::vector<TensorRow> rows(num_rows);
  SetGradsArgs args;
  args.rows = rows.data();
  args.active = active;
  args.first = first;
  args.count = count;
  std::copy(grads, grads + count, args.grads);
  if (!in_small_pieces) walked::launch(args);
  for (int begin = 0; in_small_pieces && begin < count; begin += SetGrads::kSmall) {
    const int piece = std::min(SetGrads::kSmall, count - begin);
    walked::walk<SetGrads>(SetGrads::piece<SetGrads::kSmall>(args, begin, piece));
  }
  for (int64_t i = 0; i < num_rows; ++i) seen[i] = rows[i].data[kGrad];
}

void sum_neighbours(const double* numbers, double* doubled, double* sums, int64_t size) {
  walked::walk_phases<Neighbours>({numbers, doubled, sums, size});
}

}  // extern "C"
