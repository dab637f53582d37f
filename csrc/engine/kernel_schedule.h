// A step of a scheduler, or of a whole tree of them, over all groups. One block runs it, phase by
// phase: all threads have finished one when the next begins. The CPU runs the same phases with one
// thread.
//
// The step trusts that no scheduler takes part in it twice, and that whatever it reads has been
// checked: the host can refuse a step, a device cannot.
#pragma once

#include <cstdint>
#include <tuple>

#include "engine/kernel_links.h"
#include "engine/kernel_tables.h"
#include "math/host_device.h"
#include "math/schedule.h"
#include "math/schedule_move.h"

namespace fusedlr {

struct ScheduleKernel {
  using Args = ScheduleArgs;
  static constexpr const char* kName = "step of a scheduler";
  enum Phase { kAdvance, kPrepare, kMove, kFinish, kPhases };

  static FUSEDLR_HOST_DEVICE void run(int phase, const Args& args, int thread, int num_threads) {
    switch (phase) {
      case kAdvance:
        sync_links_(*args.tables, thread, num_threads);
        if (thread == 0) advance_(args);
        break;
      case kPrepare:
        for (SchedulerRow* row = args.root->first; row != nullptr; row = row->next) {
          prepare_(args, *row, thread, num_threads);
        }
        break;
      case kMove:
        for (SchedulerRow* row = args.root->first; row != nullptr; row = row->next) {
          move_(*args.tables, *row, thread, num_threads);
        }
        break;
      case kFinish:
        sync_links_(*args.tables, thread, num_threads);
        break;
    }
  }

 private:
  // Advances the clocks of all schedulers that take part in this step, and links them in the order
  // of their moves: the parts of a composition one after the other, then the composition.
  static FUSEDLR_HOST_DEVICE void advance_(const Args& args) {
    SchedulerRow& root = *args.root;
    advance_clock_(root, args.counts, args.has_epoch, args.epoch);
    root.is_closed = args.has_epoch && !args.is_jump;
    root.next = nullptr;
    // A walk from the last to the first, so that each row can be put before those behind it.
    SchedulerRow *pending = &root, *first = nullptr;
    while (pending != nullptr) {
      SchedulerRow& row = *pending;
      pending = row.next;
      row.next = first;
      first = &row;
      pending = start_parts_(row, pending);
    }
    root.first = first;
  }

  static FUSEDLR_HOST_DEVICE void advance_clock_(SchedulerRow& row, bool counts, bool has_epoch,
                                                 double epoch) {
    if (counts && row.counts_steps) row.clock.step_count += 1;
    row.clock.last_epoch = has_epoch ? epoch : row.clock.last_epoch + 1;
  }

  // Puts the parts of a composition that take part onto the pending ones.
  static FUSEDLR_HOST_DEVICE SchedulerRow* start_parts_(const SchedulerRow& row,
                                                        SchedulerRow* pending) {
    if (row.composition == Composition::sequential) {
      const int64_t part = count_up_to_(row.clock.last_epoch, row.table, row.table_size);
      const bool starts = part > 0 && row.table[part - 1] == row.clock.last_epoch;
      return start_part_(*row.children[part], starts, pending);
    }
    if (row.composition == Composition::chained) {
      for (int64_t part = 0; part < row.num_children; ++part) {
        pending = start_part_(*row.children[part], false, pending);
      }
    }
    return pending;
  }

  // bisect_right of Python, so that even a table without order is read as there.
  static FUSEDLR_HOST_DEVICE int64_t count_up_to_(double value, const double* table, int64_t size) {
    int64_t low = 0, high = size;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (value < table[middle]) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }

  // A part that starts at a milestone of a sequence does so by its closed form, uncounted.
  static FUSEDLR_HOST_DEVICE SchedulerRow* start_part_(SchedulerRow& part, bool starts,
                                                       SchedulerRow* pending) {
    advance_clock_(part, /*counts=*/!starts, /*has_epoch=*/starts, 0.0);
    part.is_closed = starts;
    part.next = pending;
    return &part;
  }

  // Turns the clock of a scheduler into moves: one for each of its functions.
  static FUSEDLR_HOST_DEVICE void prepare_(const Args& args, SchedulerRow& row, int thread,
                                           int num_threads) {
    const bool is_root = &row == args.root;
    ScheduleStep step;
    step.is_initial = is_root && args.is_initial;
    step.is_jump = is_root && args.is_jump;
    step.is_closed = row.is_closed;
    step.metric =
        args.metric == nullptr ? args.metric_value : read_number(args.metric, args.metric_dtype);
    step.table = row.table;
    step.table_size = row.table_size;
    for (int64_t i = thread; i < row.num_functions; i += num_threads) {
      if (row.composition != Composition::none) {
        row.moves[i] = keep_lr();
        continue;
      }
      ScheduleClock clock = row.clock;
      step.function = row.functions[i];
      row.moves[i] =
          prepare_by_(row.schedule, row.parameters, clock, step, static_cast<Schedules*>(nullptr));
      // A schedule that changes the clock beyond the epoch has no functions.
      if (row.num_functions == 1) row.clock = clock;
    }
  }

  // Picks the schedule out of the list.
  template <class... Schedule>
  static FUSEDLR_HOST_DEVICE Moves prepare_by_(int32_t schedule, const double* parameters,
                                               ScheduleClock& clock, const ScheduleStep& step,
                                               const std::tuple<Schedule...>*) {
    Moves moves;
    int32_t place = 0;
    ((place++ == schedule ? void(moves = Schedule::prepare(parameters, clock, step)) : void()),
     ...);
    return moves;
  }

  static FUSEDLR_HOST_DEVICE void move_(const StepTables& tables, SchedulerRow& row, int thread,
                                        int num_threads) {
    // A graph may have captured the step before groups came or went.
    const int64_t num_groups =
        row.num_groups < tables.num_groups ? row.num_groups : tables.num_groups;
    double *lr = tables.lr, *last_lr = row.last_lr;
    move_part_(row, &Moves::lr, lr, 1, num_groups, thread, num_threads);
    for (int64_t g = thread; g < num_groups; g += num_threads) last_lr[g] = lr[g];
    if (row.momentum_column >= 0) {
      move_part_(row, &Moves::momentum, tables.hypers + row.momentum_column, tables.num_hypers,
                 num_groups, thread, num_threads);
    }
    if (thread == 0) ++row.num_moves;
  }

  // Moves one number of each group, `stride` apart from each other.
  static FUSEDLR_HOST_DEVICE void move_part_(const SchedulerRow& row, Move Moves::* part,
                                             double* values, int64_t stride, int64_t num_groups,
                                             int thread, int num_threads) {
    // Copies that the compiler can keep in registers.
    const Move first = row.moves[0].*part;
    const int64_t* which = row.num_functions == 1 ? nullptr : row.function_of_group;
    if (first.kind == MoveKind::keep) return;
    const double* from = first.from < 0 ? nullptr : row.columns + first.from * row.num_groups;
    const double* to = first.to < 0 ? nullptr : row.columns + first.to * row.num_groups;
    for (int64_t g = thread; g < num_groups; g += num_threads) {
      const Move move = which == nullptr ? first : row.moves[which[g]].*part;
      values[g * stride] = apply(move, values[g * stride], from == nullptr ? 0.0 : from[g],
                                 to == nullptr ? 0.0 : to[g]);
    }
  }
};

}  // namespace fusedlr
