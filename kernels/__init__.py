"""Fused operations: one file an operation, its reference beside its fast form."""
