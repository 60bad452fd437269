import pytest
import torch

from pyro_lrp.core.gradients import Gate, bilevel, boundary, scale_grad


def test_scale_grad_is_the_identity_with_a_scaled_gradient():
    for beta in (0.0, 0.3, 1.0, 25.0, torch.tensor(0.7)):
        x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
        y = scale_grad(x, beta)
        assert torch.equal(y, x)
        (3 * y + 0 * x).sum().backward()
        torch.testing.assert_close(x.grad, torch.full_like(x, 3.0) * beta)


def test_scale_grad_passes_gradcheck_of_second_order():
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad((scale_grad(x, 0.5) ** 3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 0.25 * 6 * x.detach())


def test_constant_zero_detaches_so_an_infinite_gradient_is_not_a_nan():
    x = torch.zeros(1, requires_grad=True)
    (x + scale_grad(x, 0.0).sqrt()).sum().backward()
    assert x.grad.item() == 1.0


def test_boundary_follows_the_innermost_bilevel_block():
    x = torch.ones(1, requires_grad=True)

    def gradient():
        return torch.autograd.grad(boundary(x).sum(), x)[0].item()

    assert gradient() == 1.0
    with bilevel(0.5):
        assert gradient() == 0.5
        with bilevel(2.0):
            assert gradient() == 2.0
        assert gradient() == 0.5
    assert gradient() == 1.0


def test_a_gate_is_decided_after_it_was_passed():
    x = torch.ones(3, requires_grad=True)
    gate = Gate()
    y = gate(x)
    assert torch.equal(y, x)
    gate.factor = torch.tensor([0.0, 0.5, 1.0])
    (2 * y).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 2.0]


def test_a_gate_that_nobody_decided_lets_no_gradient_pass():
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="factor was never set"):
        Gate()(x).sum().backward()
