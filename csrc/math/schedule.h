// THE schedule arithmetic: torch.optim.lr_scheduler's chainable forms, and its closed forms for
// `step(epoch)`, in double and in Python's order of evaluation, so that a CPU gets torch's bits.
//
// A schedule is a struct with
//   kName
//   kNumParameters, kParameters      what the user set in the scheduler: doubles, by name
//   prepare(parameters, clock, step) -> Moves
// and a place in the list Schedules at the end. `prepare` runs once per step, after the clock has
// been advanced, and turns the clock into moves that are made for every group. Transcendental
// functions appear there only.
#pragma once

#include <cmath>
#include <cstdint>
#include <tuple>

#include "math/expression.h"
#include "math/host_device.h"
#include "math/schedule_move.h"

namespace fusedlr {

// What a scheduler remembers between its steps.
struct ScheduleClock {
  double last_epoch = -1, step_count = 0;
  double T_cur = 0, T_i = 0;                                  // warm restarts
  double best = 0, num_bad_epochs = 0, cooldown_counter = 0;  // plateau
  static constexpr const char* kNames[] = {"last_epoch", "_step_count",    "T_cur",           "T_i",
                                           "best",       "num_bad_epochs", "cooldown_counter"};
};

// The user's function of the step: an expression, or its value if the host has called it.
struct StepFunction {
  const Instruction* code = nullptr;
  int64_t size = 0;
  const double* tables = nullptr;
  double* results = nullptr;
  double value = 1.0;

  FUSEDLR_HOST_DEVICE double operator()(double step) const {
    return code == nullptr ? value : evaluate(code, size, tables, step, results);
  }
};

// What one step knows beside parameters and clock.
struct ScheduleStep {
  bool is_initial = false;        // the step that construction performs
  bool is_closed = false;         // by the closed form, where there is one
  bool is_jump = false;           // warm restarts: to the epoch that the clock was given
  double metric = 0;              // plateau
  const double* table = nullptr;  // sorted milestones (repeats count), or phases
  int64_t table_size = 0;
  StepFunction function;
};

struct Moves {
  Move lr, momentum;
  // The schedule has ended (one_cycle): a host may refuse the step; a device stays at the end.
  bool is_past_the_end = false;
  double total_steps = 0;
};

constexpr double kPi = 3.141592653589793;
constexpr int32_t kBaseLr = 0;  // the column of the initial lr

FUSEDLR_HOST_DEVICE Moves move_lr(MoveKind kind, double a, double b = 0.0) {
  const bool reads_base = kind == MoveKind::scale_from || kind == MoveKind::add_span ||
                          kind == MoveKind::span_above || kind == MoveKind::reduce;
  Moves moves;
  moves.lr = {kind, a, b, reads_base ? kBaseLr : -1, -1};
  return moves;
}

FUSEDLR_HOST_DEVICE Moves keep_lr() { return {}; }

// Python's min and max of two numbers: the first one, unless the second is beyond it.
FUSEDLR_HOST_DEVICE double lesser(double a, double b) { return b < a ? b : a; }
FUSEDLR_HOST_DEVICE double greater(double a, double b) { return b > a ? b : a; }

// base_lr * f(epoch)
struct LambdaSchedule {
  static constexpr const char* kName = "lambda";
  static constexpr int kNumParameters = 0;
  static constexpr const char* kParameters[] = {nullptr};
  static FUSEDLR_HOST_DEVICE Moves prepare(const double*, ScheduleClock& clock,
                                           const ScheduleStep& step) {
    return move_lr(MoveKind::scale_from, step.function(clock.last_epoch));
  }
};

// lr * f(epoch)
struct MultiplicativeSchedule {
  static constexpr const char* kName = "multiplicative";
  static constexpr int kNumParameters = 0;
  static constexpr const char* kParameters[] = {nullptr};
  static FUSEDLR_HOST_DEVICE Moves prepare(const double*, ScheduleClock& clock,
                                           const ScheduleStep& step) {
    if (step.is_initial) return keep_lr();
    return move_lr(MoveKind::scale, step.function(clock.last_epoch));
  }
};

// base_lr * gamma^floor(epoch / step_size)
struct StepSchedule {
  static constexpr const char* kName = "step";
  static constexpr int kNumParameters = 2;
  static constexpr const char* kParameters[] = {"step_size", "gamma"};
  static FUSEDLR_HOST_DEVICE Moves prepare(const double* parameters, ScheduleClock& clock,
                                           const ScheduleStep& step) {
    const double step_size = parameters[0], gamma = parameters[1];
    const double epoch = clock.last_epoch;
    if (step.is_closed) {
      return move_lr(MoveKind::scale_from, std::pow(gamma, floor_quotient(epoch, step_size)));
    }
    if (epoch == 0 || floor_remainder(epoch, step_size) != 0) return keep_lr();
    return move_lr(MoveKind::scale, gamma);
  }
};

// base_lr * gamma^(number of milestones up to epoch)
struct MultiStepSchedule {
  static constexpr const char* kName = "multi_step";
  static constexpr int kNumParameters = 1;
  static constexpr const char* kParameters[] = {"gamma"};
  static FUSEDLR_HOST_DEVICE Moves prepare(const double* parameters, ScheduleClock& clock,
                                           const ScheduleStep& step) {
    const double gamma = parameters[0];
    double passed = 0, reached = 0;
    for (int64_t i = 0; i < step.table_size; ++i) {
      passed += step.table[i] <= clock.last_epoch;
      reached += step.table[i] == clock.last_epoch;
    }
    if (step.is_closed) return move_lr(MoveKind::scale_from, std::pow(gamma, passed));
    return reached == 0 ? keep_lr() : move_lr(MoveKind::scale, std::pow(gamma, reached));
  }
};

// base_lr * factor before total_iters, base_lr afterwards
struct ConstantSchedule {
  static constexpr const char* kName = "constant";
  static constexpr int kNumParameters = 2;
  static constexpr const char* kParameters[] = {"factor", "total_iters"};
  static FUSEDLR_HOST_DEVICE Moves prepare(const double* parameters, ScheduleClock& clock,
                                           const ScheduleStep& step) {
    const double factor = parameters[0], total_iters = parameters[1];
    if (step.is_closed) {
      const double is_over = clock.last_epoch >= total_iters ? 1.0 : 0.0;
      return move_lr(MoveKind::scale_from, factor + is_over * (1 - factor));
    }
    if (clock.last_epoch == 0) return move_lr(MoveKind::scale, factor);
    if (clock.last_epoch != total_iters) return keep_lr();
    return move_lr(MoveKind::scale, 1.0 / factor);
  }
};

// base_lr * (start + (end - start) min(epoch, total_iters) / total_iters)
struct LinearSchedule {
  static constexpr const char* kName = "linear";
  static constexpr int kNumParameters = 3;
  static constexpr const char* kParameters[] = {"start_factor", "end_factor", "total_iters"};
  static FUSEDLR_HOST_DEVICE Moves prepare(const double* parameters, ScheduleClock& clock,
                                           const ScheduleStep& step) {
    const double start = parameters[0], end = parameters[1], total_iters = parameters[2];
    const double epoch = clock.last_epoch;
    if (step.is_closed) {
      if (total_iters == 0) return move_lr(MoveKind::scale_from, end);  // 0 / 0 in torch
      const double share = (end - start) * lesser(total_iters, epoch) / total_iters;
      return move_lr(MoveKind::scale_from, start + share);
    }
    if (epoch == 0) return move_lr(MoveKind::scale, start);
    if (step.is_initial || epoch > total_iters) return keep_lr();
    const double before = total_iters * start + (epoch - 1) * (end - start);
    return move_lr(MoveKind::scale, 1.0 + (end - start) / before);
  }
};

// base_lr * gamma^epoch
struct ExponentialSchedule {
  static constexpr const char* kName = "exponential";
  static constexpr int kNumParameters = 1;
  static constexpr const char* kParameters[] = {"gamma"};
  static FUSEDLR_HOST_DEVICE Moves prepare(const double* parameters, ScheduleClock& clock,
                                           const ScheduleStep& step) {
    if (step.is_closed) {
      return move_lr(MoveKind::scale_from, std::pow(parameters[0], clock.last_epoch));
    }
    return step.is_initial ? keep_lr() : move_lr(MoveKind::scale, parameters[0]);
  }
};

// base_lr * (1 - min(epoch, total_iters) / total_iters)^power
struct PolynomialSchedule {
  static constexpr const char* kName = "polynomial";
  static constexpr int kNumParameters = 2;
  static constexpr const char* kParameters[] = {"total_iters", "power"};
  static FUSEDLR_HOST_DEVICE Moves prepare(const double* parameters, ScheduleClock& clock,
                                           const ScheduleStep& step) {
    const double total_iters = parameters[0], power = parameters[1];
    const double epoch = clock.last_epoch;
    if (step.is_closed) {
      if (total_iters == 0) return move_lr(MoveKind::scale_from, 0.0);  // 0 / 0 in torch
      const double left = 1.0 - lesser(total_iters, epoch) / total_iters;
      return move_lr(MoveKind::scale_from, std::pow(left, power));
    }
    if (step.is_initial || epoch > total_iters) return keep_lr();
    const double left = 1.0 - epoch / total_iters;
    const double left_before = 1.0 - (epoch - 1) / total_iters;
    return move_lr(MoveKind::scale, std::pow(left / left_before, power));
  }
};

// eta_min + (base_lr - eta_min) (1 + cos(pi epoch / T_max)) / 2
struct CosineAnnealingSchedule {
  static constexpr const char* kName = "cosine_annealing";
  static constexpr int kNumParameters = 2;
  static constexpr const char* kParameters[] = {"T_max", "eta_min"};
  static FUSEDLR_HOST_DEVICE Moves prepare(const double* parameters, ScheduleClock& clock,
                                           const ScheduleStep& step) {
    const double T_max = parameters[0], eta_min = parameters[1];
    const double epoch = clock.last_epoch;
    if (step.is_closed) {
      return move_lr(MoveKind::span_above, 1 + std::cos(kPi * epoch / T_max), eta_min);
    }
    if (step.is_initial) return keep_lr();
    if (clock.step_count == 1 && epoch > 0) {  // resumed in the middle
      return move_lr(MoveKind::span_above, 1 + std::cos(epoch * kPi / T_max), eta_min);
    }
    if (floor_remainder(epoch - 1 - T_max, 2 * T_max) == 0) {  // at the minimum: 0 / 0 below
      return move_lr(MoveKind::add_span, 1 - std::cos(kPi / T_max), eta_min);
    }
    const double ratio =
        (1 + std::cos(kPi * epoch / T_max)) / (1 + std::cos(kPi * (epoch - 1) / T_max));
    return move_lr(MoveKind::contract, ratio, eta_min);
  }
};

// eta_min + (base_lr - eta_min) (1 + cos(pi T_cur / T_i)) / 2
struct WarmRestartsSchedule {
  static constexpr const char* kName = "warm_restarts";
  static constexpr int kNumParameters = 3;
  static constexpr const char* kParameters[] = {"T_0", "T_mult", "eta_min"};
  static FUSEDLR_HOST_DEVICE Moves prepare(const double* parameters, ScheduleClock& clock,
                                           const ScheduleStep& step) {
    if (step.is_closed) {
      // T_cur stays where it is, as in torch.
    } else if (step.is_jump || clock.last_epoch <= 0) {
      clock.last_epoch = greater(clock.last_epoch, 0);
      jump(parameters[0], parameters[1], clock);
    } else {
      clock.T_cur = clock.T_cur + 1;
      if (clock.T_cur >= clock.T_i) {
        clock.T_cur = floor_remainder(clock.T_cur, clock.T_i);
        clock.T_i = clock.T_i * parameters[1];
      }
    }
    const double twice_share = 1 + std::cos(kPi * clock.T_cur / clock.T_i);
    return move_lr(MoveKind::span_above, twice_share, parameters[2]);
  }

 private:
  static FUSEDLR_HOST_DEVICE void jump(double T_0, double T_mult, ScheduleClock& clock) {
    const double epoch = clock.last_epoch;
    clock.last_epoch = std::floor(epoch);
    if (epoch < T_0) {
      clock.T_i = T_0;
      clock.T_cur = epoch;
    } else if (T_mult == 1) {
      clock.T_cur = floor_remainder(epoch, T_0);
    } else {
      const double restarts =
          std::trunc(std::log(epoch / T_0 * (T_mult - 1) + 1) / std::log(T_mult));
      const double growth = std::pow(T_mult, restarts);
      clock.T_cur = epoch - T_0 * (growth - 1) / (T_mult - 1);
      clock.T_i = T_0 * growth;
    }
  }
};

// A triangle between base and max, scaled by a function of the cycle or of the epoch; the momentum
// runs the other way.
struct CyclicSchedule {
  static constexpr const char* kName = "cyclic";
  enum Column : int32_t { base_lr, max_lr, base_momentum, max_momentum };
  enum Mode { triangular, triangular2, exp_range, custom };
  static constexpr int kNumParameters = 6;
  static constexpr const char* kParameters[] = {"total_size", "step_ratio",      "mode",
                                                "gamma",      "scales_by_cycle", "cycles_momentum"};
  static FUSEDLR_HOST_DEVICE Moves prepare(const double* parameters, ScheduleClock& clock,
                                           const ScheduleStep& step) {
    const double total_size = parameters[0], step_ratio = parameters[1];
    const double epoch = clock.last_epoch;
    const double cycle = std::floor(1 + epoch / total_size);
    const double x = 1.0 + epoch / total_size - cycle;
    const double height = x <= step_ratio ? x / step_ratio : (x - 1) / (step_ratio - 1);
    const double scale = scale_at(static_cast<Mode>(static_cast<int>(parameters[2])), parameters[3],
                                  parameters[4] != 0 ? cycle : epoch, step.function);
    Moves moves;
    moves.lr = {MoveKind::rise, height, scale, base_lr, max_lr};
    if (parameters[5] != 0) {
      moves.momentum = {MoveKind::fall, height, scale, base_momentum, max_momentum};
    }
    return moves;
  }

 private:
  static FUSEDLR_HOST_DEVICE double scale_at(Mode mode, double gamma, double x,
                                             const StepFunction& function) {
    switch (mode) {
      case triangular:
        return 1.0;
      case triangular2:
        return 1 / std::pow(2.0, x - 1);
      case exp_range:
        return std::pow(gamma, x);
      case custom:
        break;
    }
    return function(x);
  }
};

// Phases, each a cosine or a straight line between two columns. A phase is a row of the table:
// its last epoch, and the columns of its ends: lr from, lr to, momentum from, momentum to.
struct OneCycleSchedule {
  static constexpr const char* kName = "one_cycle";
  static constexpr int kPhaseSize = 5;
  static constexpr int kNumParameters = 3;
  static constexpr const char* kParameters[] = {"is_cosine", "cycles_momentum", "total_steps"};
  static FUSEDLR_HOST_DEVICE Moves prepare(const double* parameters, ScheduleClock& clock,
                                           const ScheduleStep& step) {
    const double* phase = step.table;
    const double* last_phase = step.table + step.table_size - kPhaseSize;
    double start = 0.0;
    for (; phase != last_phase && clock.last_epoch > phase[0]; phase += kPhaseSize) {
      start = phase[0];
    }
    // An empty phase is at its end; torch divides by zero.
    const double length = phase[0] - start;
    const double share = length == 0 ? 1.0 : (clock.last_epoch - start) / length;
    Moves moves;
    moves.total_steps = parameters[2];
    moves.is_past_the_end = clock.last_epoch > moves.total_steps;
    if (moves.is_past_the_end) return moves;
    moves.lr = between(parameters[0] != 0, share, phase[1], phase[2]);
    if (parameters[1] != 0) moves.momentum = between(parameters[0] != 0, share, phase[3], phase[4]);
    return moves;
  }

 private:
  static FUSEDLR_HOST_DEVICE Move between(bool is_cosine, double share, double from, double to) {
    const MoveKind kind = is_cosine ? MoveKind::cosine : MoveKind::linear;
    const double a = is_cosine ? std::cos(kPi * share) + 1 : share;
    return {kind, a, 0.0, static_cast<int32_t>(from), static_cast<int32_t>(to)};
  }
};

// From the lr to swa_lr within anneal_epochs steps.
struct SwaSchedule {
  static constexpr const char* kName = "swa";
  enum Column : int32_t { swa_lr };
  static constexpr int kNumParameters = 2;
  static constexpr const char* kParameters[] = {"anneal_epochs", "is_cosine"};
  static FUSEDLR_HOST_DEVICE Moves prepare(const double* parameters, ScheduleClock& clock,
                                           const ScheduleStep&) {
    const double anneal_epochs = parameters[0];
    double count = clock.step_count - 1;
    if (anneal_epochs == 0) count = greater(1, count);
    Moves moves;
    moves.lr = {MoveKind::average, share_at(parameters, (count - 1) / greater(1, anneal_epochs)),
                share_at(parameters, count / greater(1, anneal_epochs)), -1, swa_lr};
    return moves;
  }

 private:
  static FUSEDLR_HOST_DEVICE double share_at(const double* parameters, double t) {
    t = greater(0, lesser(1, t));
    return parameters[1] != 0 ? (1 - std::cos(kPi * t)) / 2 : t;
  }
};

// lr * factor, down to min_lr, when the metric has not improved for more than `patience` epochs.
struct PlateauSchedule {
  static constexpr const char* kName = "plateau";
  static constexpr int kNumParameters = 7;
  static constexpr const char* kParameters[] = {"factor",        "patience",  "cooldown",   "eps",
                                                "seeks_maximum", "threshold", "is_relative"};
  static FUSEDLR_HOST_DEVICE Moves prepare(const double* parameters, ScheduleClock& clock,
                                           const ScheduleStep& step) {
    const double factor = parameters[0], patience = parameters[1], cooldown = parameters[2],
                 eps = parameters[3];
    if (is_better(parameters, step.metric, clock.best)) {
      clock.best = step.metric;
      clock.num_bad_epochs = 0;
    } else {
      clock.num_bad_epochs += 1;
    }
    if (clock.cooldown_counter > 0) {
      clock.cooldown_counter -= 1;
      clock.num_bad_epochs = 0;  // bad epochs do not count in cooldown
    }
    if (!(clock.num_bad_epochs > patience)) return keep_lr();
    clock.cooldown_counter = cooldown;
    clock.num_bad_epochs = 0;
    return move_lr(MoveKind::reduce, factor, eps);
  }

 private:
  static FUSEDLR_HOST_DEVICE bool is_better(const double* parameters, double metric, double best) {
    const double threshold = parameters[5];
    const bool is_relative = parameters[6] != 0;
    if (parameters[4] != 0) {
      return metric > (is_relative ? best * (threshold + 1.0) : best + threshold);
    }
    return metric < (is_relative ? best * (1.0 - threshold) : best - threshold);
  }
};

// THE list of schedules. Engines and bindings build their dispatch tables from it.
using Schedules =
    std::tuple<LambdaSchedule, MultiplicativeSchedule, StepSchedule, MultiStepSchedule,
               ConstantSchedule, LinearSchedule, ExponentialSchedule, PolynomialSchedule,
               CosineAnnealingSchedule, WarmRestartsSchedule, CyclicSchedule, OneCycleSchedule,
               SwaSchedule, PlateauSchedule>;

constexpr int kMaxParameters = 8;

}  // namespace fusedlr
