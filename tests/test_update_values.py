"""Every variant of every optimizer gives torch's numbers, in every dtype and size."""

import pytest
import torch

from cases import (
    DTYPE,
    DTYPES,
    LARGE_SIZES,
    SHAPES,
    DtypeCase,
    Variant,
    each_dtype,
    each_optimizer,
    each_variant,
    random_tensor,
    variants_of,
)
from lockstep import (
    Lockstep,
    all_elements,
    parameters_like,
    random_grads,
    set_grads,
    state_of,
)


def tensors_of_all_shapes(dtype: torch.dtype, generator: torch.Generator) -> list[torch.Tensor]:
    return [random_tensor(shape, dtype, generator) for shape in SHAPES]


def assert_trains_as_torch(
    variant: Variant,
    dtype: DtypeCase,
    tensors: list[torch.Tensor],
    generator: torch.Generator,
    steps: int = 3,
) -> None:
    run = Lockstep(variant, tensors, dtype.exact)
    run.train(steps, generator)
    run.assert_as_accurate_as_torch(floor=steps * dtype.eps)
    run.assert_moved(by=2 * dtype.tolerance)


@each_dtype
@each_variant
def test_a_variant_is_as_accurate_as_torch_for_small_tensors_of_any_shape(
    variant, dtype, generator
):
    tensors = tensors_of_all_shapes(dtype.dtype, generator)
    assert_trains_as_torch(variant, dtype, tensors, generator)


@pytest.mark.parametrize("size", LARGE_SIZES)
@each_dtype
@each_optimizer
def test_tensors_of_several_chunks_are_as_accurate_as_torch(case, dtype, size, generator):
    variant = Variant(case, "", case.with_all_state)
    tensors = [random_tensor((size,), dtype.dtype, generator)]
    assert_trains_as_torch(variant, dtype, tensors, generator, steps=2)


@each_dtype
@each_optimizer
def test_a_thousand_tiny_tensors_are_as_accurate_as_torch(case, dtype, generator):
    variant = Variant(case, "", case.with_all_state)
    tensors = [random_tensor((1 + i % 5,), dtype.dtype, generator) for i in range(1_000)]
    assert_trains_as_torch(variant, dtype, tensors, generator, steps=2)


@each_optimizer
def test_fifty_steps_are_as_accurate_as_torch(case, generator):
    for variant in variants_of(case):
        tensors = [random_tensor((300,), torch.float32, generator)]
        assert_trains_as_torch(variant, DTYPE[torch.float32], tensors, generator, steps=50)


@each_dtype
@each_optimizer
def test_an_element_gets_the_same_bits_in_a_tensor_of_any_size(case, dtype, generator):
    largest = max(LARGE_SIZES)
    values = random_tensor((largest,), dtype.dtype, generator)
    grads = [random_tensor((largest,), dtype.dtype, generator) for _ in range(2)]
    sizes = [0, 1, 3, 4, 15, 16, 17, 255, 257, *LARGE_SIZES]
    params = parameters_like(values[:size] for size in sizes)
    optimizer = case.ours(params, **case.arguments, **case.with_all_state)
    for grad in grads:
        set_grads(params, [grad[:size] for size in sizes])
        optimizer.step()

    assert not torch.equal(params[-1], values)
    for param, size in zip(params, sizes, strict=True):
        assert torch.equal(param, params[-1][:size])


@each_optimizer
def test_groups_of_other_dtypes_and_flags_in_one_optimizer_each_follow_their_own(case, generator):
    variants = variants_of(case)
    tensors = [
        [random_tensor((9,), dtype.dtype, generator), random_tensor((4, 5), dtype.dtype, generator)]
        for dtype in DTYPES
        for _ in variants
    ]
    groups = [
        {"params": parameters_like(values), **variants[i % len(variants)].arguments}
        for i, values in enumerate(tensors)
    ]
    together = case.ours(groups)
    alone = [
        case.ours(parameters_like(values), **variants[i % len(variants)].arguments)
        for i, values in enumerate(tensors)
    ]
    for _ in range(2):
        for group, optimizer in zip(together.param_groups, alone, strict=True):
            grads = random_grads(group["params"], generator)
            set_grads(group["params"], grads)
            set_grads(optimizer.param_groups[0]["params"], grads)
            optimizer.step()
        together.step()

    for group, optimizer, values in zip(together.param_groups, alone, tensors, strict=True):
        for param, expected, start in zip(
            group["params"], optimizer.param_groups[0]["params"], values, strict=True
        ):
            assert torch.equal(param, expected)
            assert not torch.equal(param, start)


# In float16 torch overflows between two operations of a step, where we do not; and it multiplies
# complex numbers by complex scalars, which makes NaNs of infinities.
@pytest.mark.parametrize(
    "dtype", [dtype for dtype in DTYPES if dtype.max > 1e30 and not dtype.dtype.is_complex], ids=str
)
@each_optimizer
def test_infinities_nans_and_subnormals_spread_as_in_torch(case, dtype, generator):
    tiny = torch.finfo(dtype.dtype).tiny
    inf = float("inf")
    values = [0.0, -0.0, 1.0, tiny, -tiny / 4, inf, -inf, float("nan")]
    special = torch.tensor(values, dtype=torch.float64)
    start = special.repeat_interleave(len(special)).to(dtype.dtype)
    grads = [
        one.repeat(len(special)).to(dtype.dtype)
        for one in (special.roll(1), special, torch.ones(len(special)))
    ]
    for variant in variants_of(case):
        run = Lockstep(variant, [start], dtype.exact)
        for grad in grads:
            run.step([grad])
        tolerance = max(dtype.tolerance, 1e-6)  # of tensors in the arguments
        torch.testing.assert_close(
            run.ours, run.theirs, rtol=tolerance, atol=tolerance, equal_nan=True
        )
        moved = (run.ours[0] - start).abs()
        assert (moved[moved.isfinite()] > 2 * dtype.tolerance).any()


@each_optimizer
def test_bias_correction_is_right_after_a_million_steps(case, generator):
    tensors = [random_tensor((100,), torch.float64, generator)]
    run = Lockstep(Variant(case, "", case.with_all_state), tensors, torch.float64)
    run.train(1, generator)
    for optimizer, params in ((run.our_optimizer, run.ours), (run.exact_optimizer, run.exact)):
        if case.step_is_visible:
            optimizer.state[params[0]]["step"].fill_(1_000_000)
    run.exact[0].data.copy_(run.ours[0])
    before = run.ours[0].detach().clone()

    grads = random_grads(run.ours, generator)
    for optimizer, params in ((run.our_optimizer, run.ours), (run.exact_optimizer, run.exact)):
        set_grads(params, grads)
        optimizer.step()

    assert not torch.equal(run.ours[0], before)
    torch.testing.assert_close(run.ours, run.exact, rtol=1e-14, atol=1e-15)


@each_optimizer
def test_an_optimizer_of_empty_tensors_steps(case):
    params = parameters_like([torch.zeros(0), torch.zeros(2, 0, 3)])
    optimizer = case.ours(params, **case.arguments, **case.with_all_state)
    set_grads(params, params)
    optimizer.step()
    assert [tuple(param.shape) for param in params] == [(0,), (2, 0, 3)]
    assert all(state.numel() == 0 for state in state_of(optimizer, case))


@each_optimizer
def test_the_fallback_engine_gives_the_bits_of_torch(case, monkeypatch, generator):
    monkeypatch.setenv("FUSEDLR_BACKEND", "torch")
    for variant in variants_of(case):
        run = Lockstep(variant, tensors_of_all_shapes(torch.float32, generator), torch.float64)
        run.train(2, generator)
        assert torch.equal(all_elements(run.ours), all_elements(run.theirs)), str(variant)
        run.assert_moved(by=1e-3)


@each_optimizer
def test_zero_lr_and_no_decay_move_nothing(case, generator):
    start = [random_tensor((33,), torch.float32, generator)]
    params = parameters_like(start)
    optimizer = case.ours(params, **{**case.arguments, "lr": 0.0})
    for _ in range(3):
        set_grads(params, random_grads(params, generator))
        optimizer.step()
    assert torch.equal(params[0], start[0])


@each_optimizer
def test_maximize_is_descent_along_the_negated_gradient(case, generator):
    start = [random_tensor((33,), torch.float32, generator)]
    up, down = parameters_like(start), parameters_like(start)
    arguments = {**case.arguments, **case.with_all_state, "weight_decay": 0.1}
    ascent = case.ours(up, **arguments, maximize=True)
    descent = case.ours(down, **arguments)
    for _ in range(2):
        grads = random_grads(up, generator)
        set_grads(up, grads)
        set_grads(down, [-grad for grad in grads])
        ascent.step()
        descent.step()
    assert torch.equal(up[0], down[0])
    assert not torch.equal(up[0], start[0])
