"""Deterministic stand-in weights and inputs for parity tests (numpy only).

A tensor depends on its NAME and shape alone: the Philox stream is keyed by sha256(name), so neither
order nor network matters.  Only the raw integer stream is used (guaranteed stable across numpy
versions) and values are UNIFORM with unit variance, so every float32 is bit-exact on any machine.
"""

import hashlib
import re

import numpy as np


def unit(name, shape):
    """float32 samples, mean 0, variance 1, uniform on [-sqrt(3), sqrt(3))."""
    n = int(np.prod(shape, dtype=np.int64))
    key = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype="<u8").astype(np.uint64)
    raw = np.random.Philox(key=key).random_raw((n + 1) // 2).astype("<u8").view("<u4")[:n]
    u = (raw >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)  # exact, in [0, 1)
    return ((u * np.float32(2) - np.float32(1)) * np.float32(3**0.5)).reshape(shape)


# (regex on the name, offset, scale): value = offset + scale * unit.  First match wins.
STYLEGAN_RULES = [
    (r"noise_strength$|\.noise\.weight$", 0.1, 0.03),  # scalar gain of the noise, all three formats
    (r"\.noise$|noises\.noise_\d+$|noise_const$", 0, 1),  # fixed noise maps
    (r"(w_avg|latent_avg)$", 0, 0.3),
    (r"(mapping\.dense\d+|mapping\.fc\d+|(^|decoder\.)style\.\d+)\.weight$", 0, 100),  # 1 / lr_mul
    (r"(mapping\.dense\d+|mapping\.fc\d+|(^|decoder\.)style\.\d+)\.bias$", 0, 10),  # 0.1 / lr_mul
    (r"(modulation|affine)\.bias$", 1, 0.1),  # genforce keeps the +1 in code, its bias is ordinary
    (r"(output\d+|to_rgb1\.conv|to_rgbs\.\d+\.conv|torgb)\.weight$", 0, 0.25),  # equalised, keeps |image| ~ 1
    (r"(early_layer\.const|input\.input|b4\.const)$", 0, 1),
    (r"(layer\d+\.weight|conv\.weight|conv[01]\.weight)$", 0, 1),  # equalised 3x3 (only in generators)
    (r"(style|affine|modulation)\.weight$", 0, 1),  # equalised w -> style
]
GENERATOR = re.compile(
    r"^(mapping|truncation|synthesis|decoder|style|input|conv1\.(conv|noise|activate)|to_rgb"
    r"|convs\.\d+\.(conv|noise|activate)|to_rgbs|noises)\b"
)


def kind_of(name, shape, names=()):
    """(offset, scale) of a tensor from its name, shape and the names of its siblings."""
    base = name.rsplit(".", 1)[0]
    if GENERATOR.match(name) or name == "latent_avg":
        for pattern, offset, scale in STYLEGAN_RULES:
            if re.search(pattern, name):
                return offset, scale
    if re.search(r"styles\.\d+\.linear\.weight$", name):  # e4e EqualLinear
        return 0, 1
    if name.endswith("running_var"):
        return 1, 0.28  # inside [0.5, 1.5]
    if name.endswith("class_embedding"):
        return 0, 1
    if name.endswith("positional_embedding"):
        return 0, 0.5
    if name.endswith(("bias", "running_mean")):
        return 0, 0.1
    if len(shape) == 1:  # norm scale (has bias or running stats), else PReLU slope
        return (1, 0.1) if base + ".bias" in names or base + ".running_var" in names else (0.25, 0.05)
    if name.endswith("proj") and len(shape) == 2:  # CLIP visual.proj multiplies from the right
        return 0, shape[0] ** -0.5
    gain = 2.0 if len(shape) == 4 and "res_layer" not in name and "shortcut" not in name else 1.0
    return 0, (gain / int(np.prod(shape[1:]))) ** 0.5


def make_tensor(name, shape, kind):
    """`kind` is the (offset, scale) pair of kind_of()."""
    return np.float32(kind[0]) + np.float32(kind[1]) * unit(name, tuple(shape))


def make_state_dict(manifest, prefix=""):
    """manifest: list of [name, shape, dtype] or [name, shape, dtype, literal]; keys lose `prefix`.

    Names are used WITHOUT the prefix, so 'encoder.x' of e4e equals 'x' of a bare encoder."""
    rows = [(r[0][len(prefix) :], *r[1:]) for r in manifest if r[0].startswith(prefix)]
    names = {r[0] for r in rows}
    state = {}
    for name, shape, dtype, *literal in rows:
        if literal:
            state[name] = np.array(literal[0], dtype=dtype).reshape(shape)
        elif dtype == "int64":
            state[name] = np.zeros(shape, np.int64)
        else:
            state[name] = make_tensor(name, shape, kind_of(name, shape, names))
    return state
