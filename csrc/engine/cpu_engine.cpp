#include "engine/cpu_engine.h"

#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>

#include "engine/simd_dispatch.h"
#include "engine/staging.h"
#include "engine/tuning.h"
#include "math/rules.h"

namespace fusedlr::cpu {
namespace {

// A pointer for each index of a pack; restrict, because the operands of a tensor never overlap.
template <class T, size_t>
using Restrict = T* __restrict;

// The range function: the only loop over elements. State pointers come as a pack, so that each is a
// restrict parameter and the loop vectorises without alias checks.
template <class Rule, class T, size_t... I>
FUSEDLR_SIMD_CLONES void update_range(T* __restrict param, const T* __restrict grad,
                                      Restrict<T, I>... state, int64_t count,
                                      typename Rule::Coeffs coeffs) {
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
void update_elements(const PlanTables& tables, const TensorRow& row, const CoeffsSlot& slot,
                     int64_t begin, int64_t end) {
  typename Rule::Coeffs coeffs;
  static_assert(sizeof(coeffs) <= sizeof(slot), "raise kMaxCoeffs");
  std::memcpy(&coeffs, slot.data(), sizeof(coeffs));
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

template <class Rule>
void update_rule(const PlanTables& tables, const TensorRow& row, const CoeffsSlot& slot,
                 int64_t begin, int64_t end) {
  if (row.param_dtype == Dtype::float64) {
    update_elements<Rule, double>(tables, row, slot, begin, end);
  } else {
    update_elements<Rule, float>(tables, row, slot, begin, end);
  }
}

int64_t advance_step_(const TensorRow& row) {
  if (row.step_dtype == Dtype::float64) {
    return static_cast<int64_t>(*static_cast<double*>(row.step) += 1.0);
  }
  return static_cast<int64_t>(*static_cast<float*>(row.step) += 1.0f);
}

// The active tensors [first, last) all follow this rule.
template <class Rule>
void prepare_rule(PlanTables& tables, size_t first, size_t last) {
  typename Rule::Hyper hyper;
  typename Rule::Memo memo;
  typename Rule::Coeffs coeffs;
  static_assert(sizeof(hyper) == sizeof(double) * std::size(Rule::Hyper::kNames));
  int32_t group = -1;
  int64_t step = -1;
  for (size_t k = first; k < last; ++k) {
    const TensorRow& row = tables.tensors[tables.active[k]];
    const bool is_new_group = row.group != group;
    if (is_new_group) {
      group = row.group;
      std::memcpy(&hyper, tables.hypers + group * tables.num_hypers, sizeof(hyper));
    }
    const bool counts = Rule::kCountsSteps && Rule::counts_step(hyper);
    const int64_t row_step = counts ? advance_step_(row) : 0;
    if (is_new_group || row_step != step) {
      step = row_step;
      coeffs = Rule::prepare(hyper, tables.lr[group], step, memo);
    }
    std::memcpy(tables.coeffs[k].data(), &coeffs, sizeof(coeffs));
  }
}

// Function tables, one entry per rule of the list.
using UpdateFn = void (*)(const PlanTables&, const TensorRow&, const CoeffsSlot&, int64_t, int64_t);
using PrepareFn = void (*)(PlanTables&, size_t, size_t);

template <class List>
struct DispatchTables;
template <class... Rule>
struct DispatchTables<std::tuple<Rule...>> {
  static constexpr UpdateFn update[] = {&update_rule<Rule>...};
  static constexpr PrepareFn prepare[] = {&prepare_rule<Rule>...};
};
using Dispatch = DispatchTables<Rules>;

}  // namespace

void build_chunks_(PlanTables& tables) {
  tables.coeffs.resize(tables.active.size());
  tables.chunk_begin.assign(1, 0);
  tables.task_begin.assign(1, 0);
  int64_t chunk = 0;
  int64_t task_elements = 0;
  for (const int32_t index : tables.active) {
    for (int64_t left = tables.tensors[index].numel; left > 0; left -= kChunkElements) {
      ++chunk;
      task_elements += std::min(left, kChunkElements);
      if (task_elements >= kTaskElements) {
        tables.task_begin.push_back(chunk);
        task_elements = 0;
      }
    }
    tables.chunk_begin.push_back(chunk);
  }
  if (tables.task_begin.back() < chunk) tables.task_begin.push_back(chunk);
}

void prologue_(PlanTables& tables) {
  const auto rule_of = [&](size_t k) {
    return tables.rules[tables.tensors[tables.active[k]].group];
  };
  for (size_t first = 0; first < tables.active.size();) {
    const int32_t rule = rule_of(first);
    size_t last = first + 1;
    while (last < tables.active.size() && rule_of(last) == rule) ++last;
    Dispatch::prepare[rule](tables, first, last);
    first = last;
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
  int64_t chunk = tables.task_begin[first_task];
  const int64_t last_chunk = tables.task_begin[last_task];
  const auto after = std::upper_bound(tables.chunk_begin.begin(), tables.chunk_begin.end(), chunk);
  for (auto k = static_cast<size_t>(after - tables.chunk_begin.begin()) - 1; chunk < last_chunk;
       ++k) {
    const TensorRow& row = tables.tensors[tables.active[k]];
    const int64_t tensor_begin = tables.chunk_begin[k];
    const int64_t stop = std::min(last_chunk, tables.chunk_begin[k + 1]);
    if (stop == chunk) continue;  // an empty tensor
    Dispatch::update[tables.rules[row.group]](
        tables, row, tables.coeffs[k], (chunk - tensor_begin) * kChunkElements,
        std::min(row.numel, (stop - tensor_begin) * kChunkElements));
    chunk = stop;
  }
}

}  // namespace fusedlr::cpu
