"""Draws the picture that a vector u describes: a shaded head, aligned as FFHQ aligns a photograph.

The mesh is MakeHuman's CC0 head (`assets/`), deformed by its own targets. A z-buffer rasteriser keeps for every sample
the triangle and where in it; colour is then painted by the position on the undeformed head, so that brows, lips and
hairlines are as sharp as the picture.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from faceanon_engine.demo.people import FACE_UNITS, MACROS, SHAPES, SIZE, describe

Floats = npt.NDArray[np.floating[Any]]
Images = npt.NDArray[np.uint8]

SUPERSAMPLING = 2
SKIN, LEFT_EYE, RIGHT_EYE, TEETH, TONGUE, LASHES, HAIR, CURTAIN, RIM, LENS = range(10)
_PIVOT = np.array([0.0, 6.35, 0.45])
_EYE = np.array([0.31, 7.285, 1.25])


class Rendering(NamedTuple):
    """image uint8 [S, S, 3]; landmarks float32 [5, 2] in its pixels: eyes, nose tip, mouth corners, left to right;
    cover float32 [S, S]: how much of each pixel is the person, 0 to 1, and not what is behind."""

    image: Images
    landmarks: npt.NDArray[np.float32]
    cover: npt.NDArray[np.float32]


class _Head(NamedTuple):
    vertices: Floats  # [V, 3] undeformed
    faces: npt.NDArray[np.int32]  # [F, 3]
    parts: npt.NDArray[np.int8]  # [V]
    basis: Floats  # [B, V * 3]: macros, pairs of shapes, face units
    scalp: npt.NDArray[np.int32]  # faces that may carry hair
    landmarks: tuple[npt.NDArray[np.int64], ...]  # vertices whose mean is a landmark


@cache
def _head() -> _Head:
    with np.load(Path(__file__).parent / "assets" / "head.npz") as data:
        vertices = data["vertices"].astype(np.float32)
        faces = data["faces"].astype(np.int32)
        parts = data["parts"]
        basis = np.concatenate([data["macros"], data["shapes"], data["units"]]).astype(np.float32)
    basis = np.ascontiguousarray(basis.reshape(len(basis), -1))
    skin = parts == SKIN
    above = skin & (vertices[:, 1] > 6.6) & (hairiness(vertices, -0.2, 1.0) > -0.2)
    scalp = faces[above[faces].all(axis=1)]

    def near(point: tuple[float, float, float]) -> npt.NDArray[np.int64]:
        distance = np.where(skin, np.linalg.norm(vertices - np.array(point), axis=1), np.inf)
        return np.argsort(distance)[:4]

    landmarks = (
        np.flatnonzero(parts == RIGHT_EYE),  # the person's right eye is on the picture's left
        np.flatnonzero(parts == LEFT_EYE),
        near((0.0, 6.94, 1.68)),
        near((-0.31, 6.63, 1.40)),
        near((0.31, 6.63, 1.40)),
    )
    return _Head(vertices, faces, parts, basis, scalp, landmarks)


def hairiness(rest: Floats, hairline: float, bangs: float) -> Floats:
    """Signed distance-like measure [N] of points [N, 3] on the undeformed head: positive where hair grows or hangs."""
    height, depth = rest[:, 1], rest[:, 2]
    y = height - hairline
    t = np.clip((y - 7.4) / 0.6, 0, 1)
    front = 0.62 + 0.75 * t * t * (3 - 2 * t) + np.clip(y - 7.98, 0, 1) * 6 - depth
    low = height - (6.75 + np.clip(depth - 0.05, 0, 1) * 1.15)
    # Bangs hang over the forehead, the further down the more there are; without any they end where hair grows anyway.
    fringe = np.minimum(height - (8.1 - 0.47 * bangs), depth - 0.68)
    return np.maximum(np.minimum(front, low), fringe)


@njit(cache=True, fastmath=True)
def _normals(vertices, faces):  # type: ignore[no-untyped-def]
    out = np.zeros_like(vertices)
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for i in (a, b, c):
            out[i, 0] += nx
            out[i, 1] += ny
            out[i, 2] += nz
    for i in range(out.shape[0]):
        n = np.sqrt(out[i, 0] ** 2 + out[i, 1] ** 2 + out[i, 2] ** 2) + 1e-12
        out[i, 0] /= n
        out[i, 1] /= n
        out[i, 2] /= n
    return out


@njit(cache=True, fastmath=True)
def _raster(screen, faces, keep, depth, index, bary):  # type: ignore[no-untyped-def]
    size = depth.shape[0]
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, bx, by, cx, cy = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1], screen[c, 0], screen[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-9:
            continue
        x0, x1 = max(0, int(np.ceil(min(ax, bx, cx) - 0.5))), min(size - 1, int(np.floor(max(ax, bx, cx) - 0.5)))
        y0, y1 = max(0, int(np.ceil(min(ay, by, cy) - 0.5))), min(size - 1, int(np.floor(max(ay, by, cy) - 0.5)))
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                px, py = x + 0.5, y + 0.5
                wa = ((bx - px) * (cy - py) - (by - py) * (cx - px)) / area
                wb = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) / area
                wc = 1 - wa - wb
                if wa < 0 or wb < 0 or wc < 0:
                    continue
                z = wa * screen[a, 2] + wb * screen[b, 2] + wc * screen[c, 2]
                if z <= depth[y, x]:
                    continue
                # Hair ends where its measure does, not at an edge of the mesh.
                if wa * keep[a] + wb * keep[b] + wc * keep[c] < 0:
                    continue
                depth[y, x] = z
                index[y, x] = f
                bary[y, x, 0] = wa
                bary[y, x, 1] = wb


@njit(cache=True, fastmath=True, inline="always")
def _step(low, high, x):  # type: ignore[no-untyped-def]
    t = min(1.0, max(0.0, (x - low) / (high - low)))
    return t * t * (3 - 2 * t)


@njit(cache=True, fastmath=True, inline="always")
def _noise(x, y, z):  # type: ignore[no-untyped-def]
    s = np.sin(x * 12.9898 + y * 78.233 + z * 37.719) * 43758.5453
    return s - np.floor(s)


@njit(cache=True, fastmath=True)
def _shade(out, index, bary, faces, parts, rest, normal, p, skin, hair, iris, cloth, light, warm, gaze):  # type: ignore[no-untyped-def]
    # p: brow, beard, moustache, old, lips, african, melanin, grey, strength
    size = index.shape[0]
    albedo = np.empty(3)
    lip = np.array([skin[0] * 0.86, skin[1] * 0.62, skin[2] * 0.62])
    brow = np.array([hair[0] * 0.55 + 0.02, hair[1] * 0.55 + 0.015, hair[2] * 0.55 + 0.01])
    for y in range(size):
        for x in range(size):
            f = index[y, x]
            if f < 0:
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            wa, wb = bary[y, x, 0], bary[y, x, 1]
            wc = 1 - wa - wb
            rx = wa * rest[a, 0] + wb * rest[b, 0] + wc * rest[c, 0]
            ry = wa * rest[a, 1] + wb * rest[b, 1] + wc * rest[c, 1]
            rz = wa * rest[a, 2] + wb * rest[b, 2] + wc * rest[c, 2]
            nx = wa * normal[a, 0] + wb * normal[b, 0] + wc * normal[c, 0]
            ny = wa * normal[a, 1] + wb * normal[b, 1] + wc * normal[c, 1]
            nz = wa * normal[a, 2] + wb * normal[b, 2] + wc * normal[c, 2]
            n = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9
            nx, ny, nz = nx / n, ny / n, nz / n
            if nz < 0:
                nx, ny, nz = -nx, -ny, -nz
            part = parts[a]
            ax = abs(rx)
            shine, occlusion = 0.0, 1.0
            if part == 0:
                grain = 0.97 + 0.06 * _noise(np.floor(rx * 40), np.floor(ry * 40), np.floor(rz * 40))
                for k in range(3):
                    albedo[k] = skin[k] * grain
                shine = 0.10
                if ry < 5.80 + 0.22 * _step(0.2, 0.9, ax) and ry < 6.05:
                    weave = 0.94 + 0.12 * _noise(np.floor(rx * 25), np.floor(ry * 25), 1.0)
                    for k in range(3):
                        albedo[k] = cloth[k] * weave
                    shine = 0.02
                else:
                    # Blood under the skin: cheeks, tip of the nose, ears.
                    red = 0.10 * np.exp(-((ax - 0.47) ** 2 + (ry - 6.98) ** 2) / 0.035) * _step(0.9, 1.2, rz)
                    red += 0.10 * np.exp(-(rx**2 + (ry - 6.92) ** 2) / 0.012) * _step(1.5, 1.62, rz)
                    red += 0.06 * _step(0.76, 0.82, ax)
                    albedo[1] *= 1 - red
                    albedo[2] *= 1 - red
                    # Sockets, nostrils, below the lip, below the chin: light reaches them less.
                    e = (ax - 0.31) ** 2 / 0.055 + (ry - 7.31) ** 2 / 0.022
                    occlusion *= 1 - 0.24 * np.exp(-e) * _step(0.9, 1.1, rz)
                    lid = ((ax - 0.31) / 0.165) ** 2 + ((ry - 7.29) / 0.062) ** 2
                    if rz > 1.1:
                        occlusion *= 1 - 0.55 * (1 - _step(0.7, 1.45, lid))
                    nostril = ((ax - 0.09) / 0.055) ** 2 + ((ry - 6.855) / 0.03) ** 2
                    if rz > 1.35:
                        occlusion *= 1 - 0.6 * (1 - _step(0.3, 1.6, nostril))
                    occlusion *= 1 - 0.30 * (1 - _step(6.15, 6.38, ry)) * _step(0.0, 0.6, rz)
                    occlusion *= 1 - 0.18 * np.exp(-((ry - 6.47) ** 2) / 0.0025 - rx**2 / 0.03) * _step(1.3, 1.45, rz)
                    # Lips, and what is behind them.
                    bow = 0.018 * np.exp(-(((ax - 0.07) / 0.06) ** 2))
                    upper = 0.088 + bow
                    m = (rx / 0.325) ** 2 + ((ry - 6.632) / (upper if ry > 6.632 else 0.105)) ** 2
                    front = 1.585 - 1.95 * rx * rx
                    if rz > front - 0.10 and m < 1.6:
                        t = 1 - _step(0.75, 1.25, m)
                        for k in range(3):
                            albedo[k] = albedo[k] * (1 - t) + lip[k] * t
                        shine += 0.10 * t
                        seam = np.exp(-(((ry - 6.632) / 0.014) ** 2)) * (1 - _step(0.7, 1.0, (rx / 0.33) ** 2))
                        occlusion *= 1 - 0.5 * seam
                    if ax < 0.31 and ry > 6.53 and ry < 6.77 and rz < front - 0.13 and rz > 0.5:
                        albedo[0], albedo[1], albedo[2] = 0.22, 0.06, 0.06
                        shine = 0.0
                    # Brows: an arch, thinning outwards.
                    if rz > 0.95 and ax > 0.07 and ax < 0.62:
                        s = (ax - 0.07) / 0.55
                        arch = 7.475 + 0.105 * np.sin(min(1.0, s * 1.15) * 2.3) - 0.035 * s
                        half = 0.042 * p[0] * (1 - 0.62 * s) + 0.006
                        t = (
                            (1 - _step(0.55, 1.25, abs(ry - arch) / half))
                            * _step(0.0, 0.10, s)
                            * (1 - _step(0.85, 1.0, s))
                        )
                        t *= 0.80 + 0.2 * _noise(np.floor(rx * 90), np.floor(ry * 30), 2.0)
                        for k in range(3):
                            albedo[k] = albedo[k] * (1 - t) + brow[k] * t
                        shine *= 1 - t
                    # Beard and moustache, stubble at their borders.
                    if rz > 0.35 and ry < 6.95 and ry > 6.05 and m > 0.9:
                        edge = 6.66 + 0.42 * _step(0.38, 0.78, ax) - 0.10 * (1 - _step(0.0, 0.3, ax))
                        t = (1 - _step(edge - 0.10, edge + 0.03, ry)) * p[1] * 0.9
                        mo = (1 - _step(0.7, 1.1, ((ry - 6.765) / 0.062) ** 2 + (rx / 0.33) ** 2)) * _step(1.3, 1.4, rz)
                        t = max(t, mo * p[2] * 0.9)
                        t *= 0.82 + 0.18 * _noise(np.floor(rx * 60), np.floor(ry * 60), 3.0)
                        for k in range(3):
                            albedo[k] = albedo[k] * (1 - t) + brow[k] * t
                        shine *= 1 - t
                    # Age: folds beside the nose, lines on the brow, bags.
                    if p[3] > 0 and rz > 0.9:
                        s = (6.97 - ry) / 0.36
                        if s > 0 and s < 1:
                            fold = 0.19 + 0.17 * s
                            occlusion *= 1 - 0.30 * p[3] * np.exp(-(((ax - fold) / 0.022) ** 2)) * np.sin(s * 3.1)
                        if ry > 7.62 and ry < 7.98 and ax < 0.5:
                            occlusion *= 1 - 0.16 * p[3] * max(0.0, np.sin((ry + 0.03 * rx * rx) * 56))
                        bag = ((ax - 0.31) / 0.15) ** 2 + ((ry - 7.165) / 0.028) ** 2
                        occlusion *= 1 - 0.20 * p[3] * np.exp(-bag)
            elif part == 1 or part == 2:
                ex = rx - (0.31 if rx > 0 else -0.31)
                ey = ry - 7.285
                d = np.sqrt((ex - gaze[0]) ** 2 + (ey - gaze[1]) ** 2)
                albedo[0], albedo[1], albedo[2] = 0.86, 0.84, 0.82
                t = 1 - _step(0.072, 0.084, d)
                for k in range(3):
                    albedo[k] = albedo[k] * (1 - t) + iris[k] * (0.75 + 3.5 * d) * t
                t = 1 - _step(0.028, 0.038, d)
                for k in range(3):
                    albedo[k] *= 1 - 0.95 * t
                occlusion = 1 - 0.35 * _step(0.0, 0.07, ey)
                glint = (ex - gaze[0] - 0.025 * np.sign(light[0] + 1e-6)) ** 2 + (ey - gaze[1] - 0.03) ** 2
                if glint < 0.00035:
                    albedo[0], albedo[1], albedo[2], occlusion = 1.4, 1.4, 1.4, 1.0
            elif part == 3:
                albedo[0], albedo[1], albedo[2] = 0.80, 0.77, 0.70
                occlusion = 0.9 - 0.5 * _step(0.12, 0.30, ax)
            elif part == 4:
                albedo[0], albedo[1], albedo[2] = 0.50, 0.22, 0.22
                occlusion = 0.7
            elif part == 5:
                albedo[0], albedo[1], albedo[2] = brow[0] * 0.5, brow[1] * 0.5, brow[2] * 0.5
            elif part == 6 or part == 7:
                # Strands run from the crown outwards; a band of shine lies across them.
                angle = np.arctan2(rx, rz - 0.45)
                strand = 0.55 * _noise(np.floor(angle * 34 + 2 * np.sin(ry * 5)), 1.0, 0.0)
                strand += 0.45 * _noise(np.floor(angle * 90 + np.sin(ry * 9)), np.floor(ry * 3), 1.0)
                for k in range(3):
                    albedo[k] = hair[k] * (0.72 + 0.5 * strand)
                shine = 0.16
                if part == 7:
                    occlusion = 0.62 + 0.38 * _step(5.4, 7.4, ry)
            elif part == 8:
                albedo[0], albedo[1], albedo[2] = 0.05, 0.045, 0.05
                shine = 0.25
            else:
                albedo[0], albedo[1], albedo[2] = 0.09, 0.09, 0.10
                shine = 0.5
            lambert = nx * light[0] + ny * light[1] + nz * light[2]
            key = max(0.0, (lambert + 0.25) / 1.25)
            fill = max(0.0, -0.6 * nx * light[0] + 0.1 * ny + 0.6 * nz)
            sky = 0.5 + 0.5 * ny
            hx, hy, hz = light[0], light[1], light[2] + 1.0
            h = np.sqrt(hx * hx + hy * hy + hz * hz)
            spec = max(0.0, (nx * hx + ny * hy + nz * hz) / h) ** 22
            for k in range(3):
                tone = 1 + warm * (1 - k)
                value = albedo[k] * (p[8] * key * tone + 0.26 * fill + 0.18 + 0.18 * sky) * occlusion
                out[y, x, k] = value + shine * spec * p[8] * tone


def colours_of(d: dict[str, float]) -> tuple[Floats, Floats, Floats, Floats]:
    """Of skin, hair, irises and clothes as a description (`people.describe`) has them: RGB [3] each, 0 to 1."""
    tones = np.array(
        [[0.96, 0.78, 0.68], [0.86, 0.64, 0.51], [0.66, 0.45, 0.33], [0.42, 0.27, 0.19], [0.26, 0.165, 0.12]]
    )
    at = d["melanin"] * 4
    low = min(3, int(at))
    skin = tones[low] * (1 - at + low) + tones[low + 1] * (at - low)
    skin = skin * (1 + d["skin_hue"] * np.array([0.03, -0.015, -0.05]))
    dark = d["hair_dark"]
    ramp = np.array([[0.82, 0.66, 0.40], [0.56, 0.38, 0.20], [0.27, 0.16, 0.09], [0.07, 0.05, 0.045]])
    at = min(2.999, dark * 3)
    low = int(at)
    hair = ramp[low] * (1 - at + low) + ramp[low + 1] * (at - low)
    red = max(0.0, d["hair_red"] - 0.75) * 4 * (1 - dark)
    hair = hair * (1 - red) + np.array([0.62, 0.25, 0.09]) * red
    hair = hair * (1 - d["hair_grey"]) + np.array([0.66, 0.66, 0.66]) * d["hair_grey"]
    e = d["eye_colour"]
    irises = np.array([[0.22, 0.12, 0.06], [0.34, 0.20, 0.09], [0.28, 0.36, 0.20], [0.26, 0.42, 0.58]])
    at = min(2.999, max(0.0, e * 4.5 - 1.5))
    low = int(at)
    iris = irises[low] * (1 - at + low) + irises[low + 1] * (at - low)
    cloth = rgb_of_hsv(d["clothes_hue"], d["clothes_saturation"], d["clothes_value"])
    return skin, hair, iris, cloth


def rgb_of_hsv(hue: float, saturation: float, value: float) -> Floats:
    """RGB [3] of hue, saturation and value, all 0 to 1."""
    k = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    return value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))


def _background(d: dict[str, float], size: int) -> Floats:
    y, x = np.mgrid[0:size, 0:size] / size
    colour = rgb_of_hsv(d["background_hue"], d["background_saturation"], d["background_value"])
    shade = 1 + 0.30 * d["background_gradient"] * (0.5 - y)
    other = rgb_of_hsv(
        (d["background_hue"] + 0.12) % 1, d["background_saturation"], min(1.0, d["background_value"] + 0.18)
    )
    s = d["background_spots"]
    amount = np.zeros_like(x)
    for i in range(4):
        cx, cy = 0.5 + 0.55 * np.sin(1.7 * s + 2.4 * i), 0.35 + 0.35 * np.cos(1.3 * s + 1.9 * i)
        amount += 0.5 * np.exp(-(((x - cx) ** 2 + (y - cy) ** 2) / 0.02))
    amount = np.clip(amount, 0, 0.8)[..., None]
    return (colour * (1 - amount) + other * amount) * shade[..., None]


def _deformed(head: _Head, d: dict[str, float]) -> Floats:
    weights = np.zeros(len(head.basis), np.float32)
    african, asian = d["african"], d["asian"] * (1 - d["african"])
    races = {"african": african, "asian": asian, "caucasian": 1 - african - asian}
    for index, name in enumerate(MACROS):
        race, sex, age = name.split("-")
        weights[index] = (
            races[race] * (d["male"] if sex == "male" else 1 - d["male"]) * (d["old"] if age == "old" else 1 - d["old"])
        )
    for index, name in enumerate(SHAPES):
        weights[len(MACROS) + 2 * index + (d[name] < 0)] = abs(d[name])
    for index, name in enumerate(FACE_UNITS):
        weights[len(MACROS) + 2 * len(SHAPES) + index] = d[name]
    deformed = head.vertices + (weights @ head.basis).reshape(-1, 3)
    # The macro targets also move the head to another body height: bring its middle back.
    middle = head.vertices[:, 1] > 6.6
    return deformed + (head.vertices[middle] - deformed[middle]).mean(axis=0)


class _Mesh:
    """Collects pieces: deformed and undeformed vertices, faces, parts and the measure below which hair ends."""

    def __init__(self) -> None:
        self.pieces: list[tuple[Floats, Floats, npt.NDArray[np.int32], int | npt.NDArray[np.int8], Floats]] = []

    def add(
        self,
        vertices: Floats,
        rest: Floats,
        faces: npt.NDArray[np.int32],
        part: int | npt.NDArray[np.int8],
        keep: Floats | None = None,
    ) -> None:
        self.pieces.append((vertices, rest, faces, part, np.ones(len(vertices)) if keep is None else keep))

    def joined(self) -> tuple[Floats, Floats, npt.NDArray[np.int32], npt.NDArray[np.int8], Floats]:
        starts = np.cumsum([0] + [len(piece[0]) for piece in self.pieces])
        return (
            np.concatenate([p[0] for p in self.pieces]).astype(np.float64),
            np.concatenate([p[1] for p in self.pieces]).astype(np.float64),
            np.concatenate([p[2] + s for p, s in zip(self.pieces, starts, strict=False)]).astype(np.int32),
            np.concatenate([np.broadcast_to(np.int8(0) + p[3], len(p[0])) for p in self.pieces]).astype(np.int8),
            np.concatenate([p[4] for p in self.pieces]).astype(np.float64),
        )


def _grid_faces(rows: int, columns: int) -> npt.NDArray[np.int32]:
    i = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, e = i[:-1, :-1].ravel(), i[:-1, 1:].ravel(), i[1:, :-1].ravel(), i[1:, 1:].ravel()
    return np.concatenate([np.stack([a, b, c], 1), np.stack([b, e, c], 1)]).astype(np.int32)


def _curtain(d: dict[str, float], width: float) -> tuple[Floats, npt.NDArray[np.int32], Floats]:
    """Long hair: from above the ears round the back of the head down to the shoulders."""
    columns, rows = 40, 14
    angle = np.linspace(0.98, 2 * np.pi - 0.98, columns)[None]
    down = np.linspace(0, 1, rows)[:, None]
    flare = 1 + 0.10 * np.sin(down * 2.6)
    rx = (width + 0.4 * d["volume"]) * flare
    rz = (0.88 + 0.6 * d["volume"]) * flare
    y = 7.85 - down * (0.75 + 2.0 * d["length"]) + 0.0 * angle
    wave = 1 + 0.025 * np.sin(angle * 13 + down * 7)
    x, z = rx * np.sin(angle) * wave, 0.42 + rz * np.cos(angle) * wave
    # The front strands start at the parting and fall outwards.
    closing = np.clip(1 - down * 3.2, 0, 1) ** 1.5
    x = x * (1 - 0.22 * closing)
    ragged = 0.12 * np.sin(angle * 37) + 0.08 * np.sin(angle * 61)
    keep = (1 - down) * 3 + ragged + 0.0 * angle
    keep = np.where(down > 0.9, keep, 1.0)
    points = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    return points, _grid_faces(rows, columns), np.broadcast_to(keep, (rows, columns)).reshape(-1)


def _glasses(mesh: _Mesh, d: dict[str, float], eyes: Floats) -> None:
    square, size = d["glasses_shape"], 0.205 + 0.06 * d["glasses_shape"]
    t = np.linspace(0, 2 * np.pi, 29)
    power = 1.0 - 0.45 * square
    cx, sy = np.sign(np.cos(t)) * np.abs(np.cos(t)) ** power, np.sign(np.sin(t)) * np.abs(np.sin(t)) ** power
    front = float(eyes[:, 2].max()) + 0.27
    for side, eye in ((-1, eyes[0]), (1, eyes[1])):
        ring = []
        for scale in (1.0, 0.86):
            px = eye[0] + side * 0.02 + size * 1.08 * scale * cx
            py = eye[1] - 0.02 + size * 0.86 * scale * sy
            ring.append(np.stack([px, py, front - 0.25 * np.abs(px) ** 2], axis=1))
        points = np.concatenate(ring)
        mesh.add(points, points, _grid_faces(2, 29), RIM)
        if d["glasses_tint"] > 0.5:
            centre = ring[1].mean(axis=0, keepdims=True)
            fan = np.array([[0, i + 1, i + 2] for i in range(28)], np.int32)
            mesh.add(np.concatenate([centre, ring[1]]), np.concatenate([centre, ring[1]]), fan, LENS)
        hinge = np.array([eye[0] + side * size * 1.08, eye[1] + 0.04, front - 0.25 * eye[0] ** 2])
        bar = np.array([0, 0.05, 0])
        temple = np.array([side * 0.86, eye[1] + 0.02, 0.55])
        points = np.array([hinge, temple, hinge + bar, temple + bar])
        mesh.add(points, points, _grid_faces(2, 2), RIM)
    inner = [eyes[0][0] + size, eyes[1][0] - size]
    bridge = np.array([[x, eyes[:, 1].mean() + dy, front] for dy in (0.02, 0.065) for x in inner])
    mesh.add(bridge, bridge, _grid_faces(2, 2), RIM)


def _geometry(d: dict[str, float]) -> tuple[Any, ...]:
    head = _head()
    body = _deformed(head, d).astype(np.float64)
    mesh = _Mesh()
    mesh.add(body, head.vertices, head.faces, head.parts)
    # Lashes lie on the lid's edge and blink with it.
    if d["hair"] > 0.02:
        normal = _normals(body, head.faces)
        measure = hairiness(head.vertices, d["hairline"], d["bangs"])
        rest = head.vertices
        ragged = 0.03 * np.sin(rest[:, 0] * 47) + 0.02 * np.sin(rest[:, 0] * 91 + rest[:, 1] * 40)
        ears = (np.abs(rest[:, 0]) > 0.755) & (rest[:, 1] < 7.5)
        thickness = (0.03 + d["volume"] * np.clip(measure / 0.35, 0, 1)) * d["hair"]
        shell = body + normal * np.clip(thickness, 0.02, None)[:, None]
        shell[:, 1] += 0.4 * d["volume"] * np.clip(rest[:, 1] - 7.9, 0, 1)
        keep = measure + ragged + (d["hair"] - 1) * 0.6
        keep = np.where(ears, -1.0, keep)
        mesh.add(shell, rest, head.scalp, HAIR, keep)
        if d["long"] > 0.02:
            width = float(np.abs(body[(head.parts == SKIN) & (head.vertices[:, 1] > 7.2)][:, 0]).max()) + 0.02
            points, faces, kept = _curtain(d, width)
            rows = np.linspace(0, 1, 14)[:, None] * np.ones((1, 40))
            mesh.add(points, points, faces, CURTAIN, np.where(rows.reshape(-1) > d["long"], -1.0, kept))
    eyes = np.array([body[i].mean(axis=0) for i in head.landmarks[:2]])
    if d["glasses"] > 0.5:
        _glasses(mesh, d, eyes)
    vertices, rest, faces, parts, ends = mesh.joined()

    # The head turns on the neck; the shoulders follow a little.
    follow = np.clip((rest[:, 1] - 5.7) / 0.9, 0, 1)
    follow = np.where(parts == SKIN, 0.25 + 0.75 * follow * follow * (3 - 2 * follow), 1.0)
    yaw, pitch = d["yaw"] * follow, d["pitch"] * follow
    x, y, z = (vertices - _PIVOT).T
    y, z = y * np.cos(pitch) - z * np.sin(pitch), y * np.sin(pitch) + z * np.cos(pitch)
    x, z = x * np.cos(yaw) + z * np.sin(yaw), -x * np.sin(yaw) + z * np.cos(yaw)
    turned = np.stack([x, y, z], axis=1) + _PIVOT
    scale = d["camera"] / (d["camera"] - turned[:, 2])
    # The camera stands at the height of the eyes.
    flat = np.stack([turned[:, 0] * scale, (_EYE[1] - turned[:, 1]) * scale], axis=1)
    marks = np.array([flat[i].mean(axis=0) for i in head.landmarks])
    return turned, flat, rest, faces, parts, ends, marks


def ffhq_frame(landmarks: Floats) -> tuple[Floats, Floats, Floats]:
    """Centre c and half axes x, y of FFHQ's crop from five landmarks [5, 2] (y downwards)."""
    eye = landmarks[:2].mean(axis=0)
    across = landmarks[1] - landmarks[0]
    mouth = landmarks[3:].mean(axis=0) - eye
    x = across - np.array([-mouth[1], mouth[0]])
    x = x / np.hypot(*x) * max(2 * np.hypot(*across), 1.8 * np.hypot(*mouth))
    return eye + 0.1 * mouth, x, np.array([-x[1], x[0]])


def render(u: Floats, size: int, frame_scale: float = 1.0) -> Rendering:
    """The picture of a vector u [P], `size` pixels a side; raises ValueError for another shape.

    `frame_scale` above 1 shows more around the face than FFHQ's crop does, like an ordinary photo.
    """
    d = describe(np.asarray(u))
    turned, flat, rest, faces, parts, keep, marks = _geometry(d)
    centre, x_axis, y_axis = ffhq_frame(marks)
    big = size * SUPERSAMPLING
    reach = float(np.dot(x_axis, x_axis)) * frame_scale

    def to_pixels(points: Floats) -> Floats:
        shifted = points - centre
        return np.stack([shifted @ x_axis / reach + 1, shifted @ y_axis / reach + 1], axis=1) / 2

    screen = np.concatenate([to_pixels(flat) * big, turned[:, 2:]], axis=1)
    depth = np.full((big, big), -1e9)
    index = np.full((big, big), -1, np.int32)
    bary = np.zeros((big, big, 2))
    _raster(screen, faces, keep, depth, index, bary)
    normal = _normals(turned, faces)
    skin, hair, iris, cloth = colours_of(d)
    light = np.array([d["light_x"], d["light_y"], 0.8])
    light /= np.linalg.norm(light)
    out = _background(d, big)
    p = np.array(
        [
            d["brow_thickness"],
            d["beard"],
            d["moustache"],
            d["old"],
            0.0,
            d["african"],
            d["melanin"],
            d["hair_grey"],
            d["light"],
        ]
    )
    gaze = np.array([d["gaze_x"] * 0.25, d["gaze_y"] * 0.25 - 0.01])
    _shade(out, index, bary, faces, parts, rest, normal, p, skin, hair, iris, cloth, light, d["warmth"], gaze)
    image = out.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING, 3).mean(axis=(1, 3))
    image = np.clip(image, 0, 1) ** (1 / 1.25)
    cover = (index >= 0).reshape(size, SUPERSAMPLING, size, SUPERSAMPLING).mean(axis=(1, 3)).astype(np.float32)
    return Rendering((image * 255 + 0.5).astype(np.uint8), (to_pixels(marks) * size).astype(np.float32), cover)


def _render_many(chunk: tuple[Floats, int]) -> Images:
    codes, size = chunk
    return np.stack([render(u, size).image for u in codes])


def render_codes(codes: Floats, size: int, processes: int = 1) -> Images:
    """Pictures uint8 [N, S, S, 3] of vectors [N, P], on that many processes."""
    if codes.ndim != 2 or codes.shape[1] != SIZE:
        raise ValueError(f"codes have shape {codes.shape}, expected [N, {SIZE}]")
    if processes <= 1:
        return _render_many((codes, size))
    chunks: Iterable[Floats] = np.array_split(codes, max(processes, len(codes) // 64))
    with ProcessPoolExecutor(processes) as pool:
        return np.concatenate(list(pool.map(_render_many, ((chunk, size) for chunk in chunks if len(chunk)))))
