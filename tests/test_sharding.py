"""Sharded and replicated training: every rank ends where a single process does."""

import pytest

import sharded_training as ranks_do
from cases import each_optimizer

each_world_size = pytest.mark.parametrize("world_size", [2, 4])


@each_world_size
@pytest.mark.parametrize("wrap", ranks_do.WRAPPERS, ids=lambda wrap: wrap.__name__)
@each_optimizer
def test_training_gives_the_bits_of_a_single_process(case, wrap, world_size, ranks):
    arguments = {**case.arguments, **case.with_all_state}
    ranks.run(world_size, ranks_do.trains_like_one_process, wrap, case.name, arguments)


@each_optimizer
def test_fsdp_on_the_kernels_of_a_device_gives_the_same_bits(case, ranks):
    arguments = {**case.arguments, **case.with_all_state}
    task = ranks_do.trains_like_one_process, ranks_do.shard, case.name, arguments
    ranks.run(2, *task, backend="walked")


@pytest.mark.parametrize("world_size", [2, 4], ids=["alone", "with_fsdp"])
def test_tensor_parallelism_ends_where_a_single_process_does(world_size, ranks):
    ranks.run(world_size, ranks_do.trains_tensor_parallel)


def test_materialize_creates_state_of_dtensors(compiled_engine, ranks):
    ranks.run(2, ranks_do.materializes, backend=compiled_engine)


@each_world_size
@each_optimizer
def test_a_dtensor_takes_gradients_of_all_placements(case, world_size, ranks):
    arguments = {**case.arguments, **case.with_all_state}
    ranks.run(world_size, ranks_do.updates_dtensors, case.name, arguments)


def test_gradients_whose_collective_is_under_way_are_waited_for(ranks):
    ranks.run(2, ranks_do.works_while_collectives_are_under_way)


@pytest.mark.parametrize("spoil", ranks_do.REFUSED, ids=lambda spoil: spoil.__name__)
def test_what_does_not_fit_a_dtensor_is_named_and_nothing_has_moved(spoil, ranks):
    ranks.run(2, ranks_do.refuses, spoil, ranks_do.REFUSED[spoil])


def test_a_dtensor_as_gradient_of_a_plain_parameter_is_refused(ranks):
    ranks.run(2, ranks_do.refuses_a_dtensor_for_a_plain_parameter)


def test_parameters_that_move_to_other_memory_are_followed(ranks):
    ranks.run(2, ranks_do.follows_parameters_to_new_memory)


def test_local_tensors_that_are_replaced_are_followed(ranks):
    ranks.run(2, ranks_do.follows_a_local_tensor)
    ranks.run(2, ranks_do.follows_another_dtype)


def test_new_placements_are_noticed(ranks):
    ranks.run(2, ranks_do.follows_new_placements)


def test_autograd_notices_that_a_dtensor_has_changed(ranks):
    ranks.run(2, ranks_do.versions_grow)


def test_python_does_nothing_for_each_parameter_of_a_sharded_model_in_a_step(ranks):
    (few, *_), (many, *_) = (ranks.run(2, ranks_do.calls_of_a_step, count) for count in (2, 12))
    assert few == many


@each_optimizer
def test_zero_redundancy_optimizer_gives_the_bits_of_a_single_process(case, ranks):
    arguments = {**case.arguments, **case.with_all_state}
    ranks.run(2, ranks_do.zero_redundancy, case.name, arguments)
