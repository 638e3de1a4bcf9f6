"""Frozen networks to ONNX graphs and engines: offline, slow, careful."""
