"""The words that settings may take, each written once: checks, command line and Python interface read them here."""

from __future__ import annotations

from typing import Literal, get_args

Backend = Literal["torch", "onnxruntime", "tensorrt", "tensorrt-rtx"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
BackendOrAuto = Literal["auto", Backend]

Precision = Literal["fp32", "fp16", "bf16"]
"""What the stages without gradients compute in."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

OptimisePrecision = Literal["fp32", "tf32", "fp16", "bf16"]
"""What the optimisation computes in."""

PresetName = Literal["falco", "falco-released", "fast"]
"""The method's named settings, which `method/preset.py` holds."""

Metric = Literal["euclidean", "cosine"]

Alignment = Literal["auto", "never"]

ResultKind = Literal["crops", "photos"]
"""What a job gives: each face in FFHQ's frame, or the photographs with other faces in them."""

Unhandled = Literal["blur", "black", "fail"]
"""What becomes of faces in a photograph that no other face can take the place of."""

ImageFormat = Literal["png", "jpeg", "webp"]

ImageInput = Literal["float", "uint8"]
"""What a graph that takes pictures is given: float32 [N, 3, R, R] in [-1, 1], or uint8 [N, R, R, 3]."""
IMAGE_INPUTS: tuple[ImageInput, ...] = get_args(ImageInput)

Role = Literal["generator", "inverter", "identity_encoder", "attribute_encoder"]
"""A network's part in the method, by which a bundle names it."""
ROLES: tuple[Role, ...] = get_args(Role)

StoredDtype = Literal["float32", "float16"]
"""What a bundle's weights are stored as."""
STORED_DTYPES: tuple[StoredDtype, ...] = get_args(StoredDtype)
