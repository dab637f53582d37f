// The CPU engine: walks a plan with the rules of math/rules.h. Knows raw pointers, not tensors or
// threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "engine/plan_tables.h"

namespace fusedlr::cpu {

// Rebuilds what PlanTables holds about `active` after that has changed.
void build_chunks_(PlanTables& tables);

// Advances the steps of the tensors that do not belong to one task alone. Before any update_.
void prologue_(const PlanTables& tables);

// Advances the other steps of the tasks [first_task, last_task), turns hypers and steps into
// coefficients, and updates the chunks. Tasks are independent of each other.
void update_(const PlanTables& tables, int64_t first_task, int64_t last_task);

// The active tensors (from, to) whose first chunk lies in the tasks [first_task, last_task).
std::pair<size_t, size_t> tensors_that_begin_in(const PlanTables& tables, int64_t first_task,
                                                int64_t last_task);

}  // namespace fusedlr::cpu
