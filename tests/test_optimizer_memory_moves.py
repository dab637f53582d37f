"""Memory that moves or changes shape behind a tensor is noticed, or refused with nothing moved."""

import pytest
import torch
from torch.nn import Parameter

import fusedlr


def stepped(shape=(3,)):
    param = Parameter(torch.ones(shape))
    optimizer = fusedlr.Adam([param], lr=0.1)
    param.grad = torch.ones(shape)
    optimizer.step()
    return param, optimizer


def test_a_step_count_that_moves_into_shared_memory_is_counted_on():
    param, optimizer = stepped()
    optimizer.state[param]["step"].share_memory_()
    optimizer.step()
    assert optimizer.state[param]["step"].item() == 2


def test_an_lr_tensor_that_moves_into_shared_memory_is_still_the_lr():
    param, optimizer = stepped()
    optimizer.lr.share_memory_()
    assert optimizer.param_groups[0]["lr"] == 0.1
    before = param.detach().clone()
    optimizer.lr.zero_()
    optimizer.step()
    assert torch.equal(param, before)


def test_a_parameter_that_was_transposed_in_place_is_refused_with_its_old_state():
    param, optimizer = stepped((2, 4))
    param.grad = None
    param.data = param.data.t()
    param.grad = torch.ones(4, 2)
    before = param.detach().clone()
    with pytest.raises(
        RuntimeError, match=r"param_groups\[0\]\['params'\]\[0\] has shape \[2, 4\]"
    ):
        optimizer.step()
    assert torch.equal(param, before)


def test_an_edit_that_waits_in_a_tensor_survives_a_new_group_with_the_same_tensor():
    lr = torch.tensor(0.1)
    first, second = Parameter(torch.ones(1)), Parameter(torch.ones(1))
    optimizer = fusedlr.SGD([first], lr=lr)
    lr.fill_(0.5)
    optimizer.add_param_group({"params": [second]})
    first.grad, second.grad = torch.ones(1), torch.ones(1)
    optimizer.step()
    assert first.item() == second.item() == 0.5


def test_a_sparse_gradient_on_the_torch_engine_is_refused_before_any_group_moves():
    plain, sparse = Parameter(torch.ones(2)), Parameter(torch.ones(2))
    optimizer = fusedlr.SGD([{"params": [plain]}, {"params": [sparse], "differentiable": True}])
    plain.grad, sparse.grad = torch.ones(2), torch.ones(2).to_sparse()
    with pytest.raises(RuntimeError, match=r"param_groups\[1\]\['params'\]\[0\]"):
        optimizer.step()
    assert torch.equal(plain, torch.ones(2))


def test_the_lr_tensor_can_be_assigned():
    param, optimizer = stepped()
    optimizer.lr *= 0.5
    assert optimizer.param_groups[0]["lr"] == 0.05
    optimizer.lr = [0.0]
    before = param.detach().clone()
    optimizer.step()
    assert torch.equal(param, before)
