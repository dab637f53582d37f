// The prologue of a step: what comes before, and once for, the update of the elements. One block
// runs it, phase by phase: all threads have finished one when the next begins.
#pragma once

#include <limits>
#include <tuple>

#include "engine/kernel_links.h"
#include "engine/kernel_tables.h"
#include "engine/step_count.h"
#include "engine/struct_of_doubles.h"
#include "math/rules.h"

namespace fusedlr {

struct Prologue {
  using Args = PrologueArgs;
  static constexpr const char* kName = "prologue of a step";
  static constexpr int kPhases = 6;

  static FUSEDLR_HOST_DEVICE void run(int phase, const Args& args, int thread, int num_threads) {
    StepTables& tables = *args.tables;
    switch (phase) {
      case 0:
        sync_links_(tables, thread, num_threads);
        if (args.begins && thread == 0) decide_whether_to_skip_(tables);
        break;
      case 1:
        if (args.begins && !is_skipped(tables)) evaluate_formulas_(tables, thread, num_threads);
        break;
      case 2:
        if (args.begins && !is_skipped(tables)) move_scheduled_(tables, thread, num_threads);
        break;
      case 3:
        if (!is_skipped(tables)) prepare_rows_(args, thread, num_threads);
        break;
      case 4:
        if (args.ends) write_records_(tables, thread, num_threads);
        break;
      case 5:
        if (args.ends) end_(tables, thread, num_threads);
        break;
    }
  }

 private:
  static FUSEDLR_HOST_DEVICE bool is_skipped(const StepTables& tables) {
    return tables.counters->is_skipped != 0;
  }

  static FUSEDLR_HOST_DEVICE void decide_whether_to_skip_(const StepTables& tables) {
    const bool skips =
        tables.found_inf != nullptr && read_number(tables.found_inf, tables.found_inf_dtype) != 0;
    tables.counters->is_skipped = skips ? 1.0 : 0.0;
  }

  static FUSEDLR_HOST_DEVICE void evaluate_formulas_(const StepTables& tables, int thread,
                                                     int num_threads) {
    for (int64_t i = thread; i < tables.num_formulas; i += num_threads) {
      const ScheduleFormula& formula = tables.formulas[i];
      evaluate(formula.code, formula.size, formula.tables, tables.counters->completed,
               formula.results);
    }
  }

  static FUSEDLR_HOST_DEVICE void move_scheduled_(const StepTables& tables, int thread,
                                                  int num_threads) {
    for (int64_t i = thread; i < tables.num_scheduled; i += num_threads) {
      const ScheduledPlace& scheduled = tables.scheduled[i];
      const ScheduleFormula& formula = tables.formulas[scheduled.formula];
      if (tables.has(scheduled.place)) {
        tables.slot(scheduled.place) = formula.results[formula.size - 1];
      }
    }
  }

  static FUSEDLR_HOST_DEVICE void prepare_rows_(const Args& args, int thread, int num_threads) {
    for (int64_t k = thread; k < args.num_active; k += num_threads) {
      const int32_t index = args.active[k];
      const TensorRow& row = args.rows[index];
      if (row.group >= args.tables->num_groups) continue;
      prepare_row_(args, row, args.coeffs + int64_t{index} * kMaxCoeffs,
                   static_cast<const Rules*>(nullptr));
    }
  }

  // Picks the rule of the row out of the list.
  template <class... Rule>
  static FUSEDLR_HOST_DEVICE void prepare_row_(const Args& args, const TensorRow& row,
                                               double* coeffs, const std::tuple<Rule...>*) {
    const int32_t rule = args.rules[row.group];
    int32_t place = 0;
    ((place++ == rule ? prepare_by_<Rule>(*args.tables, row, coeffs) : void()), ...);
  }

  template <class Rule>
  static FUSEDLR_HOST_DEVICE void prepare_by_(const StepTables& tables, const TensorRow& row,
                                              double* to) {
    const auto hyper = hyper_of<Rule>(tables.hypers, tables.num_hypers, row.group);
    if (Rule::kCountsSteps && Rule::counts_step(hyper)) advance_step_(row);
    typename Rule::Memo memo;
    const typename Rule::Coeffs coeffs =
        Rule::prepare(hyper, tables.lr[row.group], Rule::kCountsSteps ? read_step(row) : 0, memo);
    static_assert(kDoubles<typename Rule::Coeffs> <= kMaxCoeffs);
    write_struct_(to, coeffs);
  }

  static FUSEDLR_HOST_DEVICE void write_records_(const StepTables& tables, int thread,
                                                 int num_threads) {
    for (int64_t i = 0; i < tables.num_records; ++i) {
      const StepRecord& record = tables.records[i];
      const int64_t num_columns = record.num_places + 2;
      const double num_written = record.memory[record.capacity * num_columns];
      double* row =
          record.memory + static_cast<int64_t>(num_written) % record.capacity * num_columns;
      const StepCounters& counters = *tables.counters;
      if (thread == 0) {
        row[0] = counters.completed;
        row[1] = counters.skipped + counters.is_skipped;
      }
      for (int64_t column = thread; column < record.num_places; column += num_threads) {
        const TablePlace place = record.places[column];
        row[2 + column] =
            tables.has(place) ? tables.slot(place) : std::numeric_limits<double>::quiet_NaN();
      }
    }
  }

  static FUSEDLR_HOST_DEVICE void end_(const StepTables& tables, int thread, int num_threads) {
    for (int64_t i = thread; i < tables.num_records; i += num_threads) {
      const StepRecord& record = tables.records[i];
      record.memory[record.capacity * (record.num_places + 2)] += 1;
    }
    if (thread != 0) return;
    tables.counters->skipped += tables.counters->is_skipped;
    tables.counters->completed += 1 - tables.counters->is_skipped;
  }
};

}  // namespace fusedlr
