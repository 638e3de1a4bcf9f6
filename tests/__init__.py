"""The tests mirror the rooms; `support/` has what several of them share, `golden/` the parity data."""
