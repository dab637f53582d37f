#include "engine/walked_engine.h"

#include "engine/kernel_dispatch.h"
#include "engine/kernel_prologue.h"
#include "engine/kernel_schedule.h"
#include "engine/kernel_update.h"
#include "engine/kernel_walk.h"
#include "engine/kernel_writes.h"

namespace fusedlr::walked {
namespace {

template <class Rule, Storage kStorage>
struct WalkedUpdate {
  static constexpr auto kEntry = &walk_blocks<Update<Rule, kStorage>, UpdateArgs>;
};

}  // namespace

void launch(const CopyBytesArgs& args) { walk<CopyBytes>(args); }

void launch(const WriteNumbersArgs& args) { walk<WriteNumbers>(args); }

void launch(const SetGradsArgs& args) { walk<SetGrads>(args); }

void launch(const PrologueArgs& args) { walk_phases<Prologue>(args); }

void launch(const UpdateArgs& args, int rule, Storage storage) {
  KernelTable<WalkedUpdate>::find(rule, storage)(args);
}

void launch(const ScheduleArgs& args) { walk_phases<ScheduleKernel>(args); }

}  // namespace fusedlr::walked
