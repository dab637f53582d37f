// THE schedule arithmetic: torch.optim.lr_scheduler's chainable forms, and its closed forms for
// `step(epoch)`, in double and in Python's order of evaluation, so that a CPU gets torch's bits.
//
// A schedule (op) is plain data. `prepare` turns an op and its clock into a move once per step;
// `apply` makes the move for one group. Transcendental functions appear in `prepare` only.
#pragma once

#include <cmath>
#include <cstdint>

#include "math/host_device.h"

namespace fusedlr {

enum class ScheduleKind : int32_t { step, multi_step, exponential, cosine_annealing };

struct ScheduleOp {
  ScheduleKind kind;
  double gamma;              // step, multi_step, exponential
  double period;             // step: step_size; cosine_annealing: T_max
  double eta_min;            // cosine_annealing
  const double* milestones;  // multi_step: sorted, repeats count
  int64_t num_milestones;
};

struct ScheduleClock {
  double epoch;       // last_epoch after this step
  bool is_initial;    // the step that construction performs
  bool is_restarted;  // the first step of a scheduler that resumes in the middle
};

enum class MoveKind : int32_t {
  keep,           // lr
  scale_lr,       // lr * a
  scale_base,     // base_lr * a
  contract,       // a * (lr - eta_min) + eta_min
  add_span,       // lr + (base_lr - eta_min) * a / 2
  span_from_min,  // eta_min + (base_lr - eta_min) * a / 2
};

struct Move {
  MoveKind kind;
  double a;
  double eta_min;
};

constexpr double kPi = 3.141592653589793;

// Python's modulo: the result has the sign of the divisor.
FUSEDLR_HOST_DEVICE double python_modulo(double a, double b) {
  const double remainder = fmod(a, b);
  return remainder != 0 && (remainder < 0) != (b < 0) ? remainder + b : remainder;
}

FUSEDLR_HOST_DEVICE int64_t count_milestones(const ScheduleOp& op, bool only_at_epoch,
                                             double epoch) {
  int64_t count = 0;
  for (int64_t i = 0; i < op.num_milestones; ++i) {
    count += only_at_epoch ? op.milestones[i] == epoch : op.milestones[i] <= epoch;
  }
  return count;
}

// The chainable form: how the step to `clock.epoch` moves the current lr.
FUSEDLR_HOST_DEVICE Move prepare(const ScheduleOp& op, const ScheduleClock& clock) {
  const Move keep = {MoveKind::keep, 1.0, 0.0};
  const double epoch = clock.epoch;
  switch (op.kind) {
    case ScheduleKind::step:
      if (epoch == 0 || python_modulo(epoch, op.period) != 0) return keep;
      return {MoveKind::scale_lr, op.gamma, 0.0};
    case ScheduleKind::multi_step: {
      const int64_t passed = count_milestones(op, true, epoch);
      if (passed == 0) return keep;
      return {MoveKind::scale_lr, pow(op.gamma, static_cast<double>(passed)), 0.0};
    }
    case ScheduleKind::exponential:
      if (clock.is_initial) return keep;
      return {MoveKind::scale_lr, op.gamma, 0.0};
    case ScheduleKind::cosine_annealing: {
      if (clock.is_initial) return keep;
      if (clock.is_restarted) {
        return {MoveKind::span_from_min, 1 + cos(epoch * kPi / op.period), op.eta_min};
      }
      if (python_modulo(epoch - 1 - op.period, 2 * op.period) == 0) {
        return {MoveKind::add_span, 1 - cos(kPi / op.period), op.eta_min};
      }
      const double ratio =
          (1 + cos(kPi * epoch / op.period)) / (1 + cos(kPi * (epoch - 1) / op.period));
      return {MoveKind::contract, ratio, op.eta_min};
    }
  }
  return keep;
}

// The closed form: the lr at `epoch` from base_lr alone.
FUSEDLR_HOST_DEVICE Move prepare_closed_form(const ScheduleOp& op, double epoch) {
  switch (op.kind) {
    case ScheduleKind::step:
      return {MoveKind::scale_base, pow(op.gamma, floor(epoch / op.period)), 0.0};
    case ScheduleKind::multi_step: {
      const auto passed = static_cast<double>(count_milestones(op, false, epoch));
      return {MoveKind::scale_base, pow(op.gamma, passed), 0.0};
    }
    case ScheduleKind::exponential:
      return {MoveKind::scale_base, pow(op.gamma, epoch), 0.0};
    case ScheduleKind::cosine_annealing:
      return {MoveKind::span_from_min, 1 + cos(kPi * epoch / op.period), op.eta_min};
  }
  return {MoveKind::keep, 1.0, 0.0};
}

FUSEDLR_HOST_DEVICE bool needs_base_lr(const Move& move) {
  return move.kind == MoveKind::scale_base || move.kind == MoveKind::add_span ||
         move.kind == MoveKind::span_from_min;
}

FUSEDLR_HOST_DEVICE double apply(const Move& move, double lr, double base_lr) {
  switch (move.kind) {
    case MoveKind::keep:
      return lr;
    case MoveKind::scale_lr:
      return lr * move.a;
    case MoveKind::scale_base:
      return base_lr * move.a;
    case MoveKind::contract:
      return move.a * (lr - move.eta_min) + move.eta_min;
    case MoveKind::add_span:
      return lr + (base_lr - move.eta_min) * move.a / 2;
    case MoveKind::span_from_min:
      return move.eta_min + (base_lr - move.eta_min) * move.a / 2;
  }
  return lr;
}

// ReduceLROnPlateau, once its metric has stopped improving.
FUSEDLR_HOST_DEVICE double reduce_on_plateau(double lr, double factor, double min_lr, double eps) {
  const double scaled = lr * factor;
  const double reduced = min_lr > scaled ? min_lr : scaled;
  return lr - reduced > eps ? reduced : lr;
}

}  // namespace fusedlr
