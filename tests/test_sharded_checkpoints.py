"""Checkpoints of sharded runs, loaded by another number of processes; and a run that is killed."""

import signal
import time

import pytest
import torch

import sharded_checkpoints as ranks_do
from cases import each_optimizer
from rank_processes import TASK_SECONDS, context


def all_state(case):
    return {**case.arguments, **case.with_all_state}


@pytest.mark.parametrize(("how", "world_size"), [("save", 2), ("async_save", 4)])
@each_optimizer
def test_a_checkpoint_goes_on_with_the_same_bits_on_any_number_of_processes(
    case, how, world_size, tmp_path, ranks
):
    end, *_ = ranks.run(4, ranks_do.saves, str(tmp_path), case.ours, all_state(case), how)
    task = ranks_do.loads, str(tmp_path), case.ours, all_state(case)
    resumed, *_ = ranks.run(world_size, *task)
    ranks_do.assert_equal(end, resumed)


@pytest.mark.parametrize("scheduled", [False, True], ids=["numbers", "schedules"])
@each_optimizer
def test_the_state_of_whole_tensors_goes_to_one_process_and_back(case, scheduled, ranks):
    arguments = {**all_state(case), **(next(iter(case.scheduled.values())) if scheduled else {})}
    ranks.run(2, ranks_do.passes_full_state, case.ours, arguments)


@pytest.mark.parametrize(("saving", "loading"), [("ours", "theirs"), ("theirs", "ours")])
@each_optimizer
def test_checkpoints_are_exchanged_with_torch(case, saving, loading, tmp_path, ranks):
    saving, loading = (getattr(case, side) for side in (saving, loading))
    end, *_ = ranks.run(2, ranks_do.saves, str(tmp_path), saving, all_state(case), "save")
    resumed, *_ = ranks.run(4, ranks_do.loads, str(tmp_path), loading, all_state(case))
    for one, other in zip(end, resumed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@each_optimizer
def test_load_state_dict_refuses_what_is_not_sharded_like_the_parameters(case, ranks):
    ranks.run(2, ranks_do.refuses_state_of_another_kind, case.ours, all_state(case))


def test_a_run_of_four_processes_that_is_killed_goes_on_with_two_to_the_same_end(tmp_path, ranks):
    store, folder = tmp_path / "store", tmp_path / "checkpoints"
    processes = [
        context.Process(
            target=ranks_do.run_until_killed, args=(rank, 4, str(store), str(folder)), daemon=True
        )
        for rank in range(4)
    ]
    for process in processes:
        process.start()
    expected, *_ = ranks.run(4, ranks_do.uninterrupted)
    deadline = time.monotonic() + TASK_SECONDS
    while len(list(folder.glob("in_a_step_*"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in processes:
        process.kill()
        process.join()
    assert [process.exitcode for process in processes] == 4 * [-signal.SIGKILL]

    results = ranks.run(2, ranks_do.resumed, str(folder))
    for began_at, end in results:
        assert 0 < began_at < ranks_do.LAST_STEP
        # Halves of a batch are summed in another order than quarters: float64 to 1e-10, where the
        # run itself has moved by more than 0.05.
        for name, param in expected.items():
            torch.testing.assert_close(end[name], param, rtol=1e-10, atol=1e-10)
    start = ranks_do.make_model(ranks_do.DTYPE).state_dict()
    moves = [(param - start[name]).abs().flatten() for name, param in expected.items()]
    assert torch.cat(moves).mean() > 0.05
