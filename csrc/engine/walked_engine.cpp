#include "engine/walked_engine.h"

#include <stdexcept>

#include "engine/kernel_dispatch.h"
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

void launch(const PrologueArgs&) {
  throw std::logic_error("kernel_prologue.h: walk_phases<Prologue>(args)");
}

void launch(const UpdateArgs& args, int rule, Storage storage) {
  KernelTable<WalkedUpdate>::find(rule, storage)(args);
}

void launch(const ScheduleArgs&) {
  throw std::logic_error("kernel_schedule.h: walk_phases<ScheduleStep>(args)");
}

}  // namespace fusedlr::walked
