// The tables that a step walks: plain data, filled by the bindings, read by every engine.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "math/host_device.h"
#include "math/rules.h"
#include "math/storage.h"

namespace fusedlr {

// Operands of a tensor, in the order of the arrays below: param, grad, state...
constexpr int kParam = 0;
constexpr int kGrad = 1;
constexpr int kFirstState = 2;
constexpr int kMaxOperands = kFirstState + kMaxStates;

// How to walk a tensor whose operands do not lie in memory alike. Sizes and strides are in
// elements, outermost first; an operand with no strides lies in the order of the walk.
struct StridedLayout {
  std::vector<int64_t> sizes;
  std::array<std::vector<int64_t>, kMaxOperands> strides;
};

// One row of the tensor table. A complex tensor is a row of twice as many reals.
struct TensorRow {
  void* data[kMaxOperands] = {};
  void* step = nullptr;  // completed steps of this parameter: one float32 or float64
  int64_t numel = 0;     // reals
  int32_t group = 0;
  int32_t layout = -1;  // index into PlanTables::layouts, or -1: all operands lie alike
  Dtype param_dtype = Dtype::float32;
  Dtype grad_dtype = Dtype::float32;
  Dtype state_dtype = Dtype::float32;
  Dtype step_dtype = Dtype::float32;

  FUSEDLR_HOST_DEVICE Dtype dtype(int operand) const {
    return operand == kParam ? param_dtype : operand == kGrad ? grad_dtype : state_dtype;
  }
};

struct PlanTables {
  std::vector<TensorRow> tensors;
  std::vector<StridedLayout> layouts;

  // The group table: lr[g], and a row of num_hypers doubles from hypers[g * num_hypers] on.
  const double* lr = nullptr;
  const double* hypers = nullptr;
  int64_t num_hypers = 0;
  std::vector<int32_t> rules;  // of each group: an index into Rules

  // The tensors that have a gradient in this step, and the first chunk of each; one entry more.
  std::vector<int32_t> active;
  std::vector<int64_t> chunk_begin;
  std::vector<int64_t> task_begin;  // runs of chunks with about equal work; one entry more
  // The active tensors that several tasks may share, or that no task sees for want of elements.
  std::vector<int32_t> without_own_task;
};

}  // namespace fusedlr
