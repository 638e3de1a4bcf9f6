"""How many images fit at once, by what one takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceanon_engine.engine.method.capacity import reduced_to_fit
from faceanon_engine.engine.system import memory


@given(st.integers(1, 4096), st.integers(0, 2**33), st.integers(0, 2**36))
def test_images_are_halved_until_they_fit(count: int, each: int, free: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "free_memory", lambda: free)
        fit = reduced_to_fit(count, each)
    allowed = free * memory.MEMORY_SHARE
    assert 1 <= fit <= count
    assert fit == 1 or fit * each <= allowed
    halvings = [count >> power for power in range(count.bit_length())]
    assert fit in halvings
    assert all(larger * each > allowed for larger in halvings if larger > fit), "no larger one of them fits"
