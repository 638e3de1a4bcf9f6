"""Who is drawn: one standard-normal vector describes a person, the scene and the camera.

Every picture of the demo is a deterministic function of a vector u [P]. Its coordinates have names and belong to
groups, which makes supervised style mixing possible: a group can be exchanged between two pictures without touching
another.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.floating]

HELD_OUT_SEED = 900_000_000
"""Seeds of people from here on are never used in training."""


class Pair(NamedTuple):
    """Targets for a positive and a negative value, and the amount at one standard deviation."""

    plus: str
    minus: str
    amount: float


SHAPES: dict[str, Pair] = {
    "nose_width": Pair("nose/nose-scale-horiz-incr", "nose/nose-scale-horiz-decr", 0.55),
    "nose_length": Pair("nose/nose-scale-vert-incr", "nose/nose-scale-vert-decr", 0.5),
    "nose_depth": Pair("nose/nose-scale-depth-incr", "nose/nose-scale-depth-decr", 0.5),
    "nose_hump": Pair("nose/nose-hump-incr", "nose/nose-hump-decr", 0.5),
    "nose_tip": Pair("nose/nose-point-up", "nose/nose-point-down", 0.5),
    "nostril_width": Pair("nose/nose-nostrils-width-incr", "nose/nose-nostrils-width-decr", 0.5),
    "mouth_width": Pair("mouth/mouth-scale-horiz-incr", "mouth/mouth-scale-horiz-decr", 0.4),
    "upper_lip": Pair("mouth/mouth-upperlip-height-incr", "mouth/mouth-upperlip-height-decr", 0.55),
    "lower_lip": Pair("mouth/mouth-lowerlip-height-incr", "mouth/mouth-lowerlip-height-decr", 0.55),
    "mouth_height": Pair("mouth/mouth-trans-up", "mouth/mouth-trans-down", 0.4),
    "chin_width": Pair("chin/chin-width-incr", "chin/chin-width-decr", 0.6),
    "chin_height": Pair("chin/chin-height-incr", "chin/chin-height-decr", 0.5),
    "chin_prominence": Pair("chin/chin-prominent-incr", "chin/chin-prominent-decr", 0.5),
    "jaw_drop": Pair("chin/chin-jaw-drop-incr", "chin/chin-jaw-drop-decr", 0.5),
    "jaw_bones": Pair("chin/chin-bones-incr", "chin/chin-bones-decr", 0.6),
    "cheek_bones": Pair("cheek/*-cheek-bones-incr", "cheek/*-cheek-bones-decr", 0.6),
    "cheek_volume": Pair("cheek/*-cheek-volume-incr", "cheek/*-cheek-volume-decr", 0.5),
    "forehead_height": Pair("forehead/forehead-scale-vert-incr", "forehead/forehead-scale-vert-decr", 0.45),
    "forehead_temple": Pair("forehead/forehead-temple-incr", "forehead/forehead-temple-decr", 0.5),
    "eye_size": Pair("eyes/*-eye-scale-incr", "eyes/*-eye-scale-decr", 0.5),
    "eye_distance": Pair("eyes/*-eye-trans-out", "eyes/*-eye-trans-in", 0.5),
    "eye_opening": Pair("eyes/*-eye-height2-incr", "eyes/*-eye-height2-decr", 0.6),
    "eye_slant": Pair("eyes/*-eye-corner2-up", "eyes/*-eye-corner2-down", 0.5),
    "eye_height": Pair("eyes/*-eye-trans-up", "eyes/*-eye-trans-down", 0.45),
    "brow_height": Pair("eyebrows/eyebrows-trans-up", "eyebrows/eyebrows-trans-down", 0.45),
    "brow_angle": Pair("eyebrows/eyebrows-angle-up", "eyebrows/eyebrows-angle-down", 0.5),
    "head_width": Pair("head/head-scale-horiz-incr", "head/head-scale-horiz-decr", 0.45),
    "head_length": Pair("head/head-scale-vert-incr", "head/head-scale-vert-decr", 0.35),
    "head_square": Pair("head/head-square", "head/head-oval", 0.3),
    "head_round": Pair("head/head-round", "head/head-triangular", 0.3),
    "ear_size": Pair("ears/*-ear-scale-incr", "ears/*-ear-scale-decr", 0.5),
    "fat": Pair("head/head-fat-incr", "head/head-fat-decr", 0.4),
    "neck_width": Pair("neck/neck-scale-horiz-incr", "neck/neck-scale-horiz-decr", 0.4),
}

MACROS = [
    f"{race}-{sex}-{age}"
    for race in ("african", "asian", "caucasian")
    for sex in ("male", "female")
    for age in ("young", "old")
]

FACE_UNITS: dict[str, tuple[str, ...]] = {
    "smile": ("mouthSmileLeft", "mouthSmileRight", "cheekSquintLeft", "cheekSquintRight"),
    "frown": ("mouthFrownLeft", "mouthFrownRight"),
    "jaw_open": ("jawOpen",),
    "brow_up": ("browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
    "brow_down": ("browDownLeft", "browDownRight"),
    "blink": ("eyeBlinkLeft", "eyeBlinkRight"),
    "wide": ("eyeWideLeft", "eyeWideRight"),
    "pucker": ("mouthPucker",),
}

_POSE = (
    "yaw",
    "pitch",
    "camera",
    "haircut",
    "hair_length",
    "hair_volume",
    "hairline",
    "glasses",
    "glasses_shape",
    "glasses_tint",
)
_IDENTITY = ("sex", "age", "race_a", "race_b", "brow_thickness", "beard", "moustache", "eye_colour", *SHAPES)
_EXPRESSION = ("smiling", "mouth_opening", "brow_lift", "eye_closing", "puckering", "gaze_x", "gaze_y")
_COLOUR = (
    "melanin", "skin_hue", "hair_dark", "hair_red", "hair_grey",
    "light_side", "light_height", "light_strength", "light_warmth",
    "background_hue", "background_value", "background_saturation", "background_gradient", "background_spots",
    "clothes_hue", "clothes_value", "clothes_saturation",
)  # fmt: skip

GROUPS: dict[str, tuple[str, ...]] = {
    "pose": _POSE,
    "identity": _IDENTITY,
    "expression": _EXPRESSION,
    "colour": _COLOUR,
}
NAMES: tuple[str, ...] = tuple(name for names in GROUPS.values() for name in names)
INDEX: dict[str, int] = {name: index for index, name in enumerate(NAMES)}
SIZE = len(NAMES)
"""Length P of u."""

# Kept for all pictures of a person; what is not listed is the occasion's.
PERSONAL = (
    *_IDENTITY,
    "haircut",
    "hair_length",
    "hair_volume",
    "hairline",
    "melanin",
    "skin_hue",
    "hair_dark",
    "hair_red",
    "hair_grey",
)


def group_mask(*groups: str) -> npt.NDArray[np.bool_]:
    """Boolean [P], true for the coordinates of those groups."""
    mask = np.zeros(SIZE, bool)
    for group in groups:
        for name in GROUPS[group]:
            mask[INDEX[name]] = True
    return mask


def personal_mask() -> npt.NDArray[np.bool_]:
    """Boolean [P], true for what stays the same in all pictures of a person."""
    mask = np.zeros(SIZE, bool)
    mask[[INDEX[name] for name in PERSONAL]] = True
    return mask


def sample(seed: int, count: int = 1) -> npt.NDArray[np.float32]:
    """`count` independent vectors u float32 [count, P] of a seed."""
    return np.random.default_rng(seed).standard_normal((count, SIZE)).astype(np.float32)


def sample_person(seed: int, pictures: int) -> npt.NDArray[np.float32]:
    """Vectors u float32 [pictures, P] of one person on several occasions; both depend on the seed alone."""
    u = sample(seed, pictures + 1)
    u[1:, personal_mask()] = u[0, personal_mask()]
    return u[1:]


def uniform(value: float) -> float:
    """A standard-normal value as its share in (0, 1)."""
    return 0.5 * (1 + math.erf(value / math.sqrt(2)))


def describe(u: Vector) -> dict[str, float]:
    """What a vector u [P] means; every entry depends on the coordinates of one group alone."""
    if u.shape != (SIZE,):
        raise ValueError(f"u has shape {u.shape}, expected ({SIZE},)")
    v = {name: float(u[INDEX[name]]) for name in NAMES}
    share = {name: uniform(value) for name, value in v.items()}

    def soft(name: str, low: float, high: float) -> float:
        """0 below a share, 1 above another, smooth between: a choice whose picture still changes continuously."""
        t = min(1.0, max(0.0, (share[name] - low) / (high - low)))
        return t * t * (3 - 2 * t)

    male = soft("sex", 0.42, 0.58)
    d: dict[str, float] = {
        "yaw": 0.38 * math.tanh(v["yaw"] * 0.8) / math.tanh(1.6),
        "pitch": 0.16 * math.tanh(v["pitch"]),
        "camera": 9 + 8 * share["camera"],
        # Which haircut: bald, cropped, short, medium, long.
        "hair": soft("haircut", 0.06, 0.10),
        "long": soft("haircut", 0.52, 0.60),
        "length": 0.25 + 0.75 * share["hair_length"],
        "volume": 0.05 + 0.16 * share["hair_volume"],
        "hairline": v["hairline"] * 0.05,
        "bangs": soft("hairline", 0.82, 0.88),
        "glasses": float(share["glasses"] > 0.78),
        "glasses_shape": share["glasses_shape"],
        "glasses_tint": float(share["glasses_tint"] > 0.85),
        "male": male,
        "old": soft("age", 0.45, 1.0),
        "african": soft("race_a", 0.6, 0.75),
        "asian": soft("race_b", 0.62, 0.77),
        "brow_thickness": 0.75 + 0.6 * share["brow_thickness"] + 0.2 * male,
        "beard": male * soft("beard", 0.62, 0.8),
        "moustache": male * soft("moustache", 0.62, 0.8),
        "eye_colour": share["eye_colour"],
        "smile": 0.75 * soft("smiling", 0.45, 0.85),
        "frown": 0.6 * (1 - soft("smiling", 0.0, 0.18)),
        "jaw_open": 0.42 * soft("mouth_opening", 0.62, 1.0),
        "brow_up": 0.7 * soft("brow_lift", 0.6, 1.0),
        "brow_down": 0.45 * (1 - soft("brow_lift", 0.0, 0.3)),
        "blink": 0.75 * soft("eye_closing", 0.85, 1.0),
        "wide": 0.2 + 0.4 * (1 - soft("eye_closing", 0.0, 0.3)),
        "pucker": 0.6 * soft("puckering", 0.85, 1.0),
        "gaze_x": 0.28 * math.tanh(v["gaze_x"]),
        "gaze_y": 0.15 * math.tanh(v["gaze_y"]),
        "melanin": share["melanin"],
        "skin_hue": math.tanh(v["skin_hue"]),
        "hair_dark": share["hair_dark"],
        "hair_red": share["hair_red"],
        "hair_grey": soft("hair_grey", 0.82, 0.95),
        "light_x": 0.65 * math.tanh(v["light_side"]),
        "light_y": 0.35 + 0.3 * math.tanh(v["light_height"]),
        "light": 0.62 + 0.2 * math.tanh(v["light_strength"]),
        "warmth": 0.07 * math.tanh(v["light_warmth"]),
        "background_hue": share["background_hue"],
        "background_value": 0.2 + 0.6 * share["background_value"],
        "background_saturation": 0.05 + 0.3 * share["background_saturation"],
        "background_gradient": math.tanh(v["background_gradient"]),
        "background_spots": v["background_spots"],
        "clothes_hue": share["clothes_hue"],
        "clothes_value": 0.12 + 0.7 * share["clothes_value"],
        "clothes_saturation": 0.5 * share["clothes_saturation"],
    }  # fmt: skip
    for name, pair in SHAPES.items():
        d[name] = pair.amount * 1.6 * math.tanh(v[name] / 1.3)
    return d


def labels(u: Vector) -> dict[str, float]:
    """Exact labels of the picture of u [P]: CelebA's names with 1 or -1, and yaw and pitch in degrees."""
    d = describe(u)

    def flag(value: bool) -> int:
        return 1 if value else -1

    grey, dark, red = d["hair_grey"] > 0.5, d["hair_dark"], d["hair_red"]
    hairy = d["hair"] > 0.5
    black = hairy and not grey and dark > 0.62
    blond = hairy and not grey and dark < 0.25
    brown = hairy and not grey and not black and not blond and red < 0.9
    return {
        "Male": flag(d["male"] > 0.5),
        "Young": flag(d["old"] < 0.35),
        "Smiling": flag(d["smile"] > 0.3),
        "Mouth_Slightly_Open": flag(d["jaw_open"] > 0.06),
        "Eyeglasses": flag(d["glasses"] > 0.5),
        "Bald": flag(not hairy),
        "Black_Hair": flag(black),
        "Blond_Hair": flag(blond),
        "Brown_Hair": flag(brown),
        "Gray_Hair": flag(hairy and grey),
        "No_Beard": flag(d["beard"] < 0.5),
        "Mustache": flag(d["moustache"] > 0.5),
        "Pale_Skin": flag(d["melanin"] < 0.15),
        "Narrow_Eyes": flag(d["eye_opening"] - 0.8 * d["blink"] < -0.45),
        "Big_Nose": flag(d["nose_width"] + d["nose_depth"] > 0.6),
        "Bangs": flag(hairy and d["bangs"] > 0.5),
        "Chubby": flag(d["fat"] + 0.5 * d["cheek_volume"] > 0.45),
        "High_Cheekbones": flag(d["cheek_bones"] > 0.4),
        "yaw": math.degrees(d["yaw"]),
        "pitch": math.degrees(d["pitch"]),
    }
