"""CUDA sources made into kernels: compiled by nvcc, loaded and launched on the stream that Torch uses."""
