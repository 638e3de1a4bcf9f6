"""Arrays and tensors become each other without a change, and asking which it is loads no Torch."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from faceanon_engine.engine.system.tensors import as_array, as_tensor, is_tensor, like


def test_asking_loads_no_torch() -> None:
    code = (
        "import sys, numpy; from faceanon_engine.engine.system.tensors import as_array, is_tensor, like;"
        "values = numpy.ones(2); assert not is_tensor(values); assert as_array(values) is values;"
        "assert like(values, values) is values; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_tensors_are_told_from_everything_else() -> None:
    assert is_tensor(torch.ones(1))
    assert is_tensor(torch.nn.Parameter(torch.ones(1)))
    assert not any(is_tensor(value) for value in (np.ones(1), [1.0], 1.0, None))


def test_a_tensor_becomes_an_array_also_where_it_has_a_gradient() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    array = as_array(torch.from_numpy(values.copy()).requires_grad_())
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, values)
    np.testing.assert_array_equal(as_array(values.tolist()), values)


@pytest.mark.parametrize("kind", ["plain", "transposed", "reversed", "read-only"])
def test_any_array_becomes_a_tensor_without_a_warning(kind: str) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    array = {"transposed": values.T, "reversed": values[::-1]}.get(kind, values)
    array.flags.writeable = kind != "read-only"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = as_tensor(array)
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), array)
    tensor += 1
    if kind == "read-only":
        assert values[0, 0] == 0, "what must not be written to is not"


def test_a_tensor_stays_itself() -> None:
    tensor = torch.ones(2)
    assert as_tensor(tensor) is tensor


def test_a_result_is_what_was_given() -> None:
    values = np.ones((2, 3), np.float32)
    assert like(values, np.zeros(1)) is values
    given = like(values, torch.zeros(1, dtype=torch.uint8))
    assert isinstance(given, torch.Tensor)
    assert given.device.type == "cpu"
    assert given.dtype == torch.float32, "the device is the original's, the type is the result's"
