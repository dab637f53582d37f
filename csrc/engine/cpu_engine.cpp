#include "engine/cpu_engine.h"

#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>

#include "engine/simd_dispatch.h"
#include "engine/staging.h"
#include "engine/step_count.h"
#include "engine/tuning.h"
#include "math/rules.h"

namespace fusedlr::cpu {
namespace {

// A pointer for each index of a pack; restrict, because the operands of a tensor never overlap.
template <class T, size_t>
using Restrict = T* __restrict;

// The range function: the only loop over elements. State pointers come as a pack, so that each is a
// restrict parameter and the loop vectorises without alias checks. Coefficients are copied only
// here, where they end up in registers: a parameter by value goes through memory, and small tensors
// wait for it (4 % of a step over 2,000 tensors of 64 elements).
template <class Rule, class T, size_t... I>
FUSEDLR_SIMD_CLONES void update_range(T* __restrict param, const T* __restrict grad,
                                      Restrict<T, I>... state, int64_t count,
                                      const typename Rule::Coeffs& prepared) {
  const typename Rule::Coeffs coeffs = prepared;
  for (int64_t i = 0; i < count; ++i) Rule::update(param[i], grad[i], state[i]..., coeffs);
}

// The common case: every operand is stored in opmath and in the order of the walk.
template <class Rule, class T, size_t... I>
void update_direct(const TensorRow& row, const typename Rule::Coeffs& coeffs, int64_t begin,
                   int64_t end, std::index_sequence<I...>) {
  update_range<Rule, T, I...>(
      static_cast<T*>(row.data[kParam]) + begin, static_cast<const T*>(row.data[kGrad]) + begin,
      static_cast<T*>(row.data[kFirstState + I]) + begin..., end - begin, coeffs);
}

// Any storage and any layout, a block at a time.
template <class Rule, class T, size_t... I>
void update_staged(const PlanTables& tables, const TensorRow& row,
                   const typename Rule::Coeffs& coeffs, int64_t begin, int64_t end,
                   std::index_sequence<I...>) {
  const Operand param(tables, row, kParam);
  const Operand grad(tables, row, kGrad);
  [[maybe_unused]] const std::array<Operand, sizeof...(I)> state{
      Operand(tables, row, kFirstState + I)...};
  alignas(64) T buffers[kFirstState + sizeof...(I)][kBlockElements];
  for (; begin < end; begin += kBlockElements) {
    const int64_t count = std::min(kBlockElements, end - begin);
    T* param_block = param.load(begin, count, buffers[kParam]);
    const T* grad_block = grad.load(begin, count, buffers[kGrad]);
    const std::array<T*, sizeof...(I)> state_blocks{
        state[I].load(begin, count, buffers[kFirstState + I])...};
    update_range<Rule, T, I...>(param_block, grad_block, state_blocks[I]..., count, coeffs);
    param.store(begin, count, param_block);
    (state[I].store(begin, count, state_blocks[I]), ...);
  }
}

template <class Rule, class T>
void update_elements(const PlanTables& tables, const TensorRow& row,
                     const typename Rule::Coeffs& coeffs, int64_t begin, int64_t end) {
  constexpr auto states = std::make_index_sequence<Rule::kStates>();
  const bool is_direct = row.layout < 0 && row.param_dtype == dtype_of<T>() &&
                         row.grad_dtype == dtype_of<T>() &&
                         (Rule::kStates == 0 || row.state_dtype == dtype_of<T>());
  if (is_direct) {
    update_direct<Rule, T>(row, coeffs, begin, end, states);
  } else {
    update_staged<Rule, T>(tables, row, coeffs, begin, end, states);
  }
}

// Starts to load the beginning of every operand. What follows within a tensor, the processor
// foresees by itself.
void prefetch(const TensorRow& row, int num_operands) {
  for (int operand = 0; operand < num_operands; ++operand) {
    const char* begin = static_cast<const char*>(row.data[operand]);
    for (int line = 0; line < kPrefetchLines; ++line) __builtin_prefetch(begin + 64 * line);
  }
}

template <class Rule>
typename Rule::Hyper hyper_of(const PlanTables& tables, int32_t group) {
  return fusedlr::hyper_of<Rule>(tables.hypers, tables.num_hypers, group);
}

// Advances the step of a tensor, if its rule counts this one.
template <class Rule>
void count_step_(const PlanTables& tables, const TensorRow& row) {
  if (Rule::kCountsSteps && Rule::counts_step(hyper_of<Rule>(tables, row.group))) {
    advance_step_(row);
  }
}

// Prepares one tensor after the other; consecutive tensors mostly share their coefficients.
template <class Rule>
class Preparation {
 public:
  explicit Preparation(const PlanTables& tables) : tables_(tables) {}

  // The coefficients for a tensor, whose step is advanced before if it belongs to one task.
  const typename Rule::Coeffs& coeffs_of(const TensorRow& row, bool has_one_task) {
    const bool is_new_group = row.group != group_;
    if (is_new_group) {
      group_ = row.group;
      hyper_ = hyper_of<Rule>(tables_, group_);
    }
    if (Rule::kCountsSteps && has_one_task && Rule::counts_step(hyper_)) advance_step_(row);
    const int64_t step = Rule::kCountsSteps ? read_step(row) : 0;
    if (is_new_group || step != step_) {
      step_ = step;
      coeffs_ = Rule::prepare(hyper_, tables_.lr[group_], step, memo_);
    }
    return coeffs_;
  }

 private:
  const PlanTables& tables_;
  typename Rule::Hyper hyper_;
  typename Rule::Memo memo_;
  typename Rule::Coeffs coeffs_;
  int32_t group_ = -1;
  int64_t step_ = -1;
};

// Where a walk over the chunks is: at `chunk`, which belongs to the k-th active tensor.
struct Place {
  size_t k;
  int64_t chunk;
};

// Updates the chunks from `place` to last_chunk, as far as tensors follow this rule; returns the
// place after them.
template <class Rule>
Place update_rule(const PlanTables& tables, int32_t rule, Place place, int64_t last_chunk) {
  Preparation<Rule> preparation(tables);
  for (; place.chunk < last_chunk; ++place.k) {
    const TensorRow& row = tables.tensors[tables.active[place.k]];
    if (tables.rules[row.group] != rule) break;
    const int64_t tensor_begin = tables.chunk_begin[place.k];
    const int64_t tensor_end = tables.chunk_begin[place.k + 1];
    if (tensor_begin == tensor_end) continue;
    if (place.k + kPrefetchDistance < tables.active.size()) {
      prefetch(tables.tensors[tables.active[place.k + kPrefetchDistance]],
               kFirstState + Rule::kStates);
    }
    const bool has_one_task = tensor_end == tensor_begin + 1;
    const typename Rule::Coeffs& coeffs = preparation.coeffs_of(row, has_one_task);
    const int64_t stop = std::min(last_chunk, tensor_end);
    const int64_t begin = (place.chunk - tensor_begin) * kChunkElements;
    const int64_t end = std::min(row.numel, (stop - tensor_begin) * kChunkElements);
    if (row.param_dtype == Dtype::float64) {
      update_elements<Rule, double>(tables, row, coeffs, begin, end);
    } else {
      update_elements<Rule, float>(tables, row, coeffs, begin, end);
    }
    place.chunk = stop;
  }
  return place;
}

// Function tables, one entry per rule of the list.
using UpdateFn = Place (*)(const PlanTables&, int32_t, Place, int64_t);
using CountFn = void (*)(const PlanTables&, const TensorRow&);

template <class List>
struct DispatchTables;
template <class... Rule>
struct DispatchTables<std::tuple<Rule...>> {
  static constexpr UpdateFn update[] = {&update_rule<Rule>...};
  static constexpr CountFn count[] = {&count_step_<Rule>...};
};
using Dispatch = DispatchTables<Rules>;

}  // namespace

void build_chunks_(PlanTables& tables) {
  tables.without_own_task.clear();
  tables.chunk_begin.assign(1, 0);
  tables.task_begin.assign(1, 0);
  int64_t chunk = 0;
  int64_t task_elements = 0;
  for (const int32_t index : tables.active) {
    const int64_t tensor_begin = chunk;
    for (int64_t left = tables.tensors[index].numel; left > 0; left -= kChunkElements) {
      ++chunk;
      task_elements += std::min(left, kChunkElements);
      if (task_elements >= kTaskElements) {
        tables.task_begin.push_back(chunk);
        task_elements = 0;
      }
    }
    if (chunk != tensor_begin + 1) tables.without_own_task.push_back(index);
    tables.chunk_begin.push_back(chunk);
  }
  if (tables.task_begin.back() < chunk) tables.task_begin.push_back(chunk);
}

void prologue_(const PlanTables& tables) {
  for (const int32_t index : tables.without_own_task) {
    const TensorRow& row = tables.tensors[index];
    Dispatch::count[tables.rules[row.group]](tables, row);
  }
}

std::pair<size_t, size_t> tensors_that_begin_in(const PlanTables& tables, int64_t first_task,
                                                int64_t last_task) {
  const auto begin = tables.chunk_begin.begin();
  const auto end = tables.chunk_begin.end() - 1;
  const auto from = std::lower_bound(begin, end, tables.task_begin[first_task]);
  const auto to = std::lower_bound(from, end, tables.task_begin[last_task]);
  return {static_cast<size_t>(from - begin), static_cast<size_t>(to - begin)};
}

void update_(const PlanTables& tables, int64_t first_task, int64_t last_task) {
  const int64_t first_chunk = tables.task_begin[first_task];
  const int64_t last_chunk = tables.task_begin[last_task];
  const auto after =
      std::upper_bound(tables.chunk_begin.begin(), tables.chunk_begin.end(), first_chunk);
  Place place{static_cast<size_t>(after - tables.chunk_begin.begin()) - 1, first_chunk};
  while (place.chunk < last_chunk) {
    const int32_t rule = tables.rules[tables.tensors[tables.active[place.k]].group];
    place = Dispatch::update[rule](tables, rule, place, last_chunk);
  }
}

}  // namespace fusedlr::cpu
