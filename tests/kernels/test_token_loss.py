"""The loss on token features, and its gradient: definition and CUDA source."""

from __future__ import annotations

import pytest
import torch

from faceanon_engine.engine.method.losses import attribute_loss
from faceanon_engine.kernels.token_loss import token_loss, token_loss_reference
from tests.kernels.compare import DTYPES, assert_near, gradients
from tests.kernels.host_launcher import HostLauncher


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 5, 16), (3, 3, 7), (1, 1, 1), (2, 70, 128), (2, 197, 48)], ids=str)
def test_the_kernels_are_their_definition(shape: tuple[int, int, int], dtype: torch.dtype, host: HostLauncher) -> None:
    torch.manual_seed(1)
    tokens, reference = torch.randn(shape).to(dtype).requires_grad_(), torch.randn(shape)
    cotangents = [torch.rand(shape[0]) + 0.5]
    actual, actual_gradient = gradients(lambda x: [token_loss(x, reference, launcher=host)], [tokens], cotangents)
    expected, expected_gradient = gradients(
        lambda x: [token_loss_reference(x.double(), reference.double())], [tokens], cotangents
    )
    assert actual[0].dtype == torch.float32
    assert_near(actual[0], expected[0], torch.float32)
    assert_near(actual_gradient[0], expected_gradient[0], dtype)


def test_where_nothing_differs_there_is_no_slope(host: HostLauncher) -> None:
    tokens = torch.tensor([[[1.0, 2.0, 3.0]]], requires_grad=True)
    loss = token_loss(tokens, torch.tensor([[[1.0, 3.0, 2.0]]]), launcher=host)
    loss.sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.flatten().tolist() == pytest.approx([0.0, -1 / 3, 1 / 3])


def test_what_is_not_a_number_is_not_hidden(host: HostLauncher) -> None:
    tokens = torch.tensor([[[float("nan"), 2.0]]], requires_grad=True)
    loss = token_loss(tokens, torch.zeros(1, 1, 2), launcher=host)
    loss.sum().backward()
    assert tokens.grad is not None
    assert loss.isnan().all()
    assert tokens.grad.isnan()[0, 0].tolist() == [True, False]


def test_the_definition_is_the_methods_loss() -> None:
    tokens, reference = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    torch.testing.assert_close(token_loss_reference(tokens, reference), attribute_loss(tokens, reference))
    torch.testing.assert_close(token_loss(tokens, reference), attribute_loss(tokens, reference))


def test_the_definitions_gradient_is_right() -> None:
    tokens, reference = torch.randn(2, 3, 4).double().requires_grad_(), torch.randn(2, 3, 4).double()
    assert torch.autograd.gradcheck(lambda x: token_loss_reference(x, reference), [tokens])


def test_other_tokens_are_refused(host: HostLauncher) -> None:
    with pytest.raises(ValueError, match="tokens"):
        token_loss(torch.zeros(1, 2, 8), torch.zeros(1, 3, 8), launcher=host)
