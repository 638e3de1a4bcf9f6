"""What the room of the networks hands out, and what that costs."""

from __future__ import annotations

import subprocess
import sys

from faceanon_engine.engine import networks


def test_every_name_that_is_listed_is_there() -> None:
    assert len(networks.__all__) == len(set(networks.__all__)) > 8
    for name in networks.__all__:
        value = getattr(networks, name)
        assert value.__name__ == name
        assert value.__module__.startswith(f"{networks.__name__}.")


def test_a_recipe_is_had_without_loading_torch() -> None:
    code = (
        "import sys; from faceanon_engine.engine.networks import PixelRecipe; before = 'torch' in sys.modules;"
        "from faceanon_engine.engine.networks import Generator; sys.exit(before or 'torch' not in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
