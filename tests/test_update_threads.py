"""A step gives the same bits on any number of threads."""

import threading

import pytest
import torch

from cases import LAYOUTS, Guarded, each_dtype, each_optimizer, random_tensor
from lockstep import parameters_like, random_grads, set_grads

SIZES = (1, 7, 0, 70_000, 3, 65_536, 16_384, 16_385) + 300 * (50,)


@each_dtype
@each_optimizer
def test_one_two_and_three_threads_give_the_same_bits(case, dtype, generator, set_num_threads):
    start = [random_tensor((size,), dtype.dtype, generator) for size in SIZES]
    grads = [random_grads(start, generator) for _ in range(2)]
    results = []
    for num_threads in (1, 2, 3):
        set_num_threads(num_threads)
        params = parameters_like(start)
        optimizer = case.ours(params, **case.arguments, **case.with_all_state)
        for one in grads:
            set_grads(params, one)
            optimizer.step()
        results.append(params)
    for params in results[1:]:
        assert all(map(torch.equal, params, results[0]))
    moved = [not torch.equal(a, b) for a, b in zip(results[0], start, strict=True) if a.numel()]
    assert all(moved)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@each_optimizer
def test_threads_that_share_a_strided_tensor_give_the_bits_of_one_contiguous_one(
    case, layout, generator, set_num_threads
):
    values, grad = (random_tensor((30, 7, 11, 31), torch.bfloat16, generator) for _ in range(2))
    (contiguous,) = parameters_like([values])
    placed = Guarded(values, layout)
    strided = torch.nn.Parameter(placed.view)
    for param, num_threads in ((contiguous, 1), (strided, 2)):
        set_num_threads(num_threads)
        optimizer = case.ours([param], **case.arguments, **case.with_all_state)
        param.grad = grad if num_threads == 1 else Guarded(grad, LAYOUTS[-2]).view
        for _ in range(2):
            optimizer.step()
    assert torch.equal(strided, contiguous)
    assert not torch.equal(contiguous, values)
    assert placed.is_intact()


@each_optimizer
def test_optimizers_that_step_in_threads_of_their_own_do_not_disturb_each_other(case, generator):
    start = [random_tensor((size,), torch.float32, generator) for size in (40_000, 3, 500)]
    grads = [random_grads(start, generator) for _ in range(5)]

    def train(params: list[torch.nn.Parameter]) -> None:
        optimizer = case.ours(params, **case.arguments, **case.with_all_state)
        for one in grads:
            set_grads(params, one)
            optimizer.step()

    alone = parameters_like(start)
    train(alone)
    together = [parameters_like(start) for _ in range(4)]
    workers = [threading.Thread(target=train, args=(params,)) for params in together]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for params in together:
        assert all(map(torch.equal, params, alone))
    assert not torch.equal(alone[0], start[0])
