"""What every session promises, whatever runs it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.sessions.graphs import TensorSpec
from faceanon_engine.engine.sessions.session import About, Profile, Session


class Doubling(Session):
    """Doubles its input and remembers the sizes it was asked for."""

    def __init__(self, min_batch: int = 1, max_batch: int | None = 4, dtype: str = "float32") -> None:
        super().__init__(TensorSpec(dtype, ("N", 3)), TensorSpec("float32", ("N", 3)), max_batch, min_batch)
        self.sizes: list[int] = []

    def _run(self, batch: Any) -> Any:
        self.sizes.append(len(batch))
        return batch * 2

    def describe(self) -> About:
        return About("double", "1", "double", "fp32", "cpu", "mapping")


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (4, [4]), (5, [4, 1]), (11, [4, 4, 3])])
@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_a_batch_of_any_size_comes_back_whole_and_in_order(count: int, sizes: list[int], kind: str) -> None:
    values = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    session = Doubling()
    output = session.run(values if kind == "array" else torch.from_numpy(values))
    assert isinstance(output, np.ndarray if kind == "array" else torch.Tensor)
    np.testing.assert_array_equal(np.asarray(output), values * 2)
    assert session.sizes == sizes


def test_a_batch_below_the_least_is_filled_up_and_cut_again() -> None:
    session = Doubling(min_batch=4, max_batch=4)
    values = np.random.default_rng(0).random((6, 3), np.float32)
    np.testing.assert_array_equal(session.run(values), values * 2)
    assert session.sizes == [4, 4]


def test_an_empty_batch_needs_no_run() -> None:
    session = Doubling()
    assert session.run(np.zeros((0, 3), np.float32)).shape == (0, 3)
    assert session.run(torch.zeros(0, 3)).shape == (0, 3)
    assert session.sizes == []


def test_other_float_types_and_layouts_are_converted() -> None:
    values = np.arange(12, dtype=np.float64).reshape(3, 4).T
    assert Doubling().run(values).dtype == np.float32
    assert Doubling().run(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize(
    ("dtype", "batch"),
    [
        ("float32", np.zeros((2, 4), np.float32)),
        ("float32", np.zeros(3, np.float32)),
        ("float32", np.zeros((2, 3), np.uint8)),
        ("float32", np.zeros((2, 3), np.int64)),
        ("uint8", np.zeros((2, 3), np.float32)),
    ],
)
def test_what_the_graph_does_not_take_is_refused(dtype: str, batch: np.ndarray) -> None:
    with pytest.raises(ValueError, match="the input has"):
        Doubling(dtype=dtype).run(batch)


@pytest.mark.parametrize("sizes", [(0, 1, 2), (2, 1, 3), (1, 5, 4)])
def test_a_disordered_profile_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match="batch profile"):
        Profile(*sizes)


def test_a_profile_of_one_size_is_fixed() -> None:
    assert (Profile(8, 8, 8).fixed, str(Profile(8, 8, 8))) == (True, "8")
    assert (Profile().fixed, str(Profile())) == (False, "1,8,64")
