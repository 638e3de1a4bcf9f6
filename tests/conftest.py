"""What must stand before torch is loaded."""

from __future__ import annotations

import os
from pathlib import Path

# Programs that the tests start import the package from this folder, too, wherever they run; nothing has to be installed.
ROOT = str(Path(__file__).resolve().parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])

# As the command line sets it: threads that spin stall a test run on a machine that does anything else.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Several test processes share the cores: one thread each.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
