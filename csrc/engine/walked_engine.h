// The kernels of a device on the host: every launch walks its grid block by block, thread by thread
// and phase by phase. Slow, and the proof that kernels are right where there is no GPU.
#pragma once

#include "engine/kernel_tables.h"

namespace fusedlr::walked {

void launch(const CopyBytesArgs& args);
void launch(const WriteNumbersArgs& args);
void launch(const SetGradsArgs& args);
void launch(const PrologueArgs& args);
void launch(const UpdateArgs& args, int rule, Storage storage);
void launch(const ScheduleArgs& args);

}  // namespace fusedlr::walked
