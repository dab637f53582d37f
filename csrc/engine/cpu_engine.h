// The CPU engine: walks a plan with the rules of math/rules.h. Knows raw pointers, not tensors or
// threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "engine/plan_tables.h"

namespace fusedlr::cpu {

// Rebuilds chunk_begin and task_begin after `active` has changed.
void build_chunks_(PlanTables& tables);

// Advances the step of every active tensor and writes its coefficients.
void prologue_(PlanTables& tables);

// Updates the chunks of the tasks [first_task, last_task). Tasks are independent of each other.
void update_(const PlanTables& tables, int64_t first_task, int64_t last_task);

// The active tensors (from, to) whose first chunk lies in the tasks [first_task, last_task).
std::pair<size_t, size_t> tensors_that_begin_in(const PlanTables& tables, int64_t first_task,
                                                int64_t last_task);

}  // namespace fusedlr::cpu
