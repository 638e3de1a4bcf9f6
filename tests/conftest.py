"""What must stand before torch is loaded."""

from __future__ import annotations

import os

# As the command line sets it: threads that spin stall a test run on a machine that does anything else.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Several test processes share the cores: one thread each.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
