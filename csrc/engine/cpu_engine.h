// The CPU engine: walks a plan with the rules of math/rules.h. Knows raw pointers, not tensors or threads.
#pragma once

#include <cstdint>

#include "engine/plan_tables.h"

namespace fusedlr::cpu {

// Rebuilds chunk_begin and task_begin after `active` has changed.
void build_chunks_(PlanTables& tables);

// Advances the step of every active tensor and writes its coefficients.
void prologue_(PlanTables& tables);

// Updates the chunks of the tasks [first_task, last_task). Tasks are independent of each other.
void update_(const PlanTables& tables, int64_t first_task, int64_t last_task);

}  // namespace fusedlr::cpu
