"""What must stand before torch is loaded."""

from __future__ import annotations

import os

# As the command line sets it: threads that spin stall a test run on a machine that does anything else.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
