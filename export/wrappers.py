"""The graphs as Torch modules made for export: same functions as the networks', constants folded, batch left free.

A wrapper keeps the names of its network's layers, so that a layer's output in a graph can be compared with the
network's own. Parts that stay in float32 in a 16-bit graph are modules derived from `Float32Island`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fusion

from faceanon_engine.engine.choices import ImageInput
from faceanon_engine.engine.networks import AttributeEncoder, Generator, IdentityEncoder, Inverter
from faceanon_engine.engine.networks.irse import ResidualUnit, Subsample
from faceanon_engine.engine.networks.resize import resize_shorter_side
from faceanon_engine.engine.networks.stylegan2 import Mapping
from faceanon_engine.engine.networks.stylegan2_layers import EqualizedLinear, StyledLayer, ToRGB
from faceanon_engine.engine.networks.vit import Attention, Block
from faceanon_engine.engine.sessions.graphs import get_graph
from faceanon_engine.kernels.fir import blur
from faceanon_engine.kernels.modulated_conv import ACTIVATION_GAIN, DEMODULATION_EPSILON, LEAKY_SLOPE, weight_energy


class Float32Island(nn.Module):
    """What is computed in float32 whatever the precision of the graph around it."""


class Add(Float32Island):
    """A sum whose small terms would be lost in 16 bits."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class UnitLength(Float32Island):
    """Vectors [N, D] scaled to length 1, as `torch.nn.functional.normalize`, without expanding to the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-12)


# --- preprocessing --------------------------------------------------------------------------------------------------


def resize_and_crop_matrix(side: int, size: int) -> Tensor:
    """float64 [size, side] that resizes an axis as `resize_and_crop` does; square images make both axes alike.

    Resizing is linear, so its matrix is what becomes of the identity. Runtimes know the antialiased kind differently
    or not at all; every one of them knows a matrix product.
    """
    # [1, 1, side, side]: columns are the unit vectors; only the rows are resized.
    columns = torch.eye(side, dtype=torch.float64)[None, None]
    if side == size:
        return columns[0, 0]
    height = resize_shorter_side(torch.eye(side, dtype=torch.float64)[None, None], size).shape[2]
    resized = F.interpolate(columns, (height, side), mode="bilinear", antialias=True, align_corners=False)
    top = round((height - size) / 2)
    return resized[0, 0, top : top + size]


def average_matrix(side: int, size: int) -> Tensor:
    """float64 [size, side] that averages an axis as adaptive pooling does."""
    columns = torch.eye(side, dtype=torch.float64)[None, None]
    return F.adaptive_avg_pool2d(columns, (size, side))[0, 0]


class Preprocess(Float32Island):
    """Image of the pipeline -> what the network sees: fixed matrices along both axes, then scale and offset."""

    down: Tensor
    across: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(
        self, down: Tensor, across: Tensor, scale: Tensor | None, offset: Tensor | None, image_input: ImageInput
    ) -> None:
        super().__init__()
        self.image_input = image_input
        self.window: tuple[slice, slice] | None = None
        windows = _window(down), _window(across)
        if windows[0] is not None and windows[1] is not None:
            self.window = windows[0], windows[1]
        self.register_buffer("down", down)  # [height, R]
        self.register_buffer("across", across.t().contiguous())  # [R, width]
        if scale is not None and offset is not None and image_input == "uint8":
            # Pixels p mean p / 127.5 - 1: both affine maps become one.
            scale, offset = scale / 127.5, offset - scale
        elif image_input == "uint8":
            scale, offset = torch.full([1, 1, 1, 1], 1 / 127.5, dtype=torch.float64), torch.tensor(-1.0).double()
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)

    def forward(self, image: Tensor) -> Tensor:
        if self.image_input == "uint8":
            image = image.to(self.down.dtype).permute(0, 3, 1, 2)
        if self.window is not None:
            image = image[:, :, self.window[0], self.window[1]]
        else:
            image = self.down @ (image @ self.across)
        return image if self.scale is None else image * self.scale + self.offset


def _window(matrix: Tensor) -> slice | None:
    """The rows that a matrix merely picks, when it does nothing else."""
    first = int(matrix[0].argmax())
    rows, columns = matrix.shape
    picks = torch.zeros_like(matrix)
    if first + rows > columns:
        return None
    picks[torch.arange(rows), first + torch.arange(rows)] = 1
    return slice(first, first + rows) if torch.equal(picks, matrix) else None


def preprocess(network: nn.Module, side: int, image_input: ImageInput) -> Preprocess:
    """The preprocessing of that network for images of side `side`, in float64."""
    if isinstance(network, Inverter):
        matrix = resize_and_crop_matrix(side, network.config.input_size)
        return Preprocess(matrix, matrix, None, None, image_input)
    if isinstance(network, AttributeEncoder):
        matrix = resize_and_crop_matrix(side, network.config.input_size)
        # [-1, 1] -> [0, 1] -> normalised, in one step.
        scale = 0.5 / network.std.double()
        return Preprocess(matrix, matrix, scale, (0.5 - network.mean.double()) / network.std.double(), image_input)
    assert isinstance(network, IdentityEncoder)
    config = network.config
    matrix = resize_and_crop_matrix(side, config.resize or config.input_size)
    top, bottom, left, right = config.crop or (0, len(matrix), 0, len(matrix))
    down, across = matrix[top:bottom], matrix[left:right]
    if (len(down), len(across)) != (config.input_size, config.input_size):
        down = average_matrix(len(down), config.input_size) @ down
        across = average_matrix(len(across), config.input_size) @ across
    return Preprocess(down, across, None, None, image_input)


# --- constants ------------------------------------------------------------------------------------------------------


def plain_linear(layer: EqualizedLinear, gain: float = 1.0) -> nn.Linear:
    """A linear layer with the learning rate's scale, and a further gain, in its weights; float64."""
    return _linear(layer.weight.double() * (layer.weight_gain * gain), layer.bias.double() * (layer.bias_gain * gain))


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight, linear.bias = _constant(weight), _constant(bias)
    return linear


def _constant(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach(), requires_grad=False)


def folded(network: nn.Module) -> nn.Module:
    """A copy for inference: normalisation that follows a layer moved into it, what does nothing left out.

    Weights that stay as they are share their memory with the network's.
    """
    shared: dict[int, Any] = {id(value): _constant(value) for value in network.parameters()}
    shared |= {id(value): value.detach() for value in network.buffers()}
    network = copy.deepcopy(network, shared).eval()
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            _fold(module)
        if isinstance(module, ResidualUnit) and _does_nothing(module.shortcut_layer):
            module.shortcut_layer = nn.Identity()
        for name, child in list(module.named_children()):
            if isinstance(child, EqualizedLinear):
                setattr(module, name, plain_linear(child))
    return network


def _fold(layers: nn.Sequential) -> None:
    for index, layer in enumerate(layers):
        before = layers[index - 1] if index else None
        merged: nn.Module | None = None
        if isinstance(layer, nn.BatchNorm2d) and isinstance(before, nn.Conv2d):
            merged = fusion.fuse_conv_bn_eval(copy.deepcopy(before).double(), copy.deepcopy(layer).double())
        elif isinstance(layer, nn.BatchNorm1d) and isinstance(before, nn.Linear):
            merged = fusion.fuse_linear_bn_eval(copy.deepcopy(before).double(), copy.deepcopy(layer).double())
        if merged is not None:
            # In the normalisation's place, whose output it gives; what was the layer's is never formed.
            layers[index - 1], layers[index] = nn.Identity(), merged
        elif _does_nothing(layer):
            layers[index] = nn.Identity()


def _does_nothing(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Dropout) or (isinstance(layer, Subsample) and layer.stride == 1)


# --- generator ------------------------------------------------------------------------------------------------------


class UnitMeanSquare(Float32Island):
    """Codes z scaled to a mean square of 1."""

    def forward(self, z: Tensor) -> Tensor:
        return z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class MappingGraph(nn.Module):
    """z [N, z_dim] -> w [N, w_dim]."""

    def __init__(self, mapping: Mapping) -> None:
        super().__init__()
        layers: Iterable[Any] = mapping.layers
        self.normalise = UnitMeanSquare()
        # The activation's gain goes into the layer before it: leaky ReLU is homogeneous.
        self.layers = nn.ModuleList(plain_linear(layer, math.sqrt(2)) for layer in layers)

    def forward(self, z: Tensor) -> Tensor:
        x = self.normalise(z)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        return x


class Modulation(Float32Island):
    """w [N, w_dim] -> styles [N, Cin] and demodulation [N, Cout], for a weight scaled by `weight_scale`.

    Styles are divided by their largest magnitude, which the demodulation makes up for, and the weight is scaled so that
    the convolution's output is then no larger than the demodulated one: in float16 nothing overflows between.
    """

    def __init__(self, affine: EqualizedLinear, energy: Tensor, gain: float) -> None:
        super().__init__()
        self.affine = plain_linear(affine)
        self.weight_scale = float(energy.double().sum(dim=1).max().clamp_min(1e-30).rsqrt())
        # The activation's gain belongs behind the square root; inside it, it is divided by twice.
        self.register_buffer("energy", (energy.double() * self.weight_scale**2 / gain**2).t().contiguous())
        self.epsilon = DEMODULATION_EPSILON * self.weight_scale**2 / gain**2

    energy: Tensor

    def forward(self, w: Tensor) -> tuple[Tensor, Tensor]:
        styles = self.affine(w)
        peak = styles.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)
        styles = styles / peak
        return styles, (styles.square() @ self.energy + self.epsilon / peak.square()).rsqrt()


class StyledConvolution(nn.Module):
    """One layer of the synthesis: modulated 3x3 convolution, noise, bias, activation."""

    weight: Tensor
    noise: Tensor
    bias: Tensor

    def __init__(self, layer: StyledLayer) -> None:
        super().__init__()
        conv = layer.conv
        weight = conv.weight.double() * conv.gain
        self.modulation = Modulation(conv.affine, weight_energy(weight), ACTIVATION_GAIN)
        self.up = conv.up
        weight = weight * self.modulation.weight_scale
        self.register_buffer("weight", weight.transpose(0, 1).contiguous() if conv.up else weight)
        noise = layer.noise.double() * layer.noise_strength.double() * ACTIVATION_GAIN
        # Noise and bias stay apart: their sum would be a constant as large as the features.
        self.register_buffer("noise", noise if bool(noise.any()) else None)
        self.register_buffer("bias", layer.bias.double()[:, None, None] * ACTIVATION_GAIN)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles, demodulation = self.modulation(w)
        x = x * styles[:, :, None, None]
        x = (
            blur(F.conv_transpose2d(x, self.weight, stride=2), (1, 1))
            if self.up
            else F.conv2d(x, self.weight, padding=1)
        )
        x = x * demodulation[:, :, None, None]
        if self.noise is not None:
            x = x + self.noise
        return F.leaky_relu(x + self.bias, LEAKY_SLOPE)


class Enlarge(Float32Island):
    """The image so far at twice the side, and the new part added.

    Away from the border the filter [1, 3, 3, 1] over inserted zeros is bilinear interpolation; a frame of zeros makes
    it so at the border.
    """

    def forward(self, rgb: Tensor, image: Tensor) -> Tensor:
        framed = F.pad(image, (1, 1, 1, 1))
        enlarged = F.interpolate(framed, scale_factor=2.0, mode="bilinear", align_corners=False)
        return rgb + enlarged[:, :, 2:-2, 2:-2]


class ColourStyles(Float32Island):
    """w [N, w_dim] -> styles [N, Cin] of a toRGB layer."""

    def __init__(self, affine: EqualizedLinear) -> None:
        super().__init__()
        self.affine = plain_linear(affine)

    def forward(self, w: Tensor) -> Tensor:
        return self.affine(w)


class ColourBias(Float32Island):
    """The bias of a toRGB layer, added to its convolution [N, 3, H, W]."""

    bias: Tensor

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("bias", bias.double()[:, None, None])

    def forward(self, rgb: Tensor) -> Tensor:
        return rgb + self.bias


class Colour(nn.Module):
    """toRGB: modulated 1x1 convolution, added to the enlarged image so far."""

    weight: Tensor

    def __init__(self, layer: ToRGB, first: bool) -> None:
        super().__init__()
        self.modulation = ColourStyles(layer.conv.affine)
        self.register_buffer("weight", layer.conv.weight.double() * layer.conv.gain)
        self.add_bias = ColourBias(layer.bias)
        self.enlarge = None if first else Enlarge()

    def forward(self, x: Tensor, w: Tensor, image: Tensor | None) -> Tensor:
        rgb = self.add_bias(F.conv2d(x * self.modulation(w)[:, :, None, None], self.weight))
        return rgb if self.enlarge is None or image is None else self.enlarge(rgb, image)


class SynthesisGraph(nn.Module):
    """w+ [N, rows, w_dim] -> image [N, 3, R, R]."""

    const: Tensor

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.rows = generator.config.rows
        self.register_buffer("const", generator.const.double())
        layers: Iterable[Any] = generator.layers
        to_rgbs: Iterable[Any] = generator.to_rgbs
        self.layers = nn.ModuleList(StyledConvolution(layer) for layer in layers)
        self.to_rgbs = nn.ModuleList(Colour(layer, not index) for index, layer in enumerate(to_rgbs))

    def forward(self, w_plus: Tensor) -> Tensor:
        features, image = self.const, None
        for row in range(self.rows):
            if row % 2:
                image = self.to_rgbs[row // 2](features, w_plus[:, row], image)
            if row < len(self.layers):
                features = self.layers[row](features, w_plus[:, row])
        assert image is not None
        return image


# --- encoders -------------------------------------------------------------------------------------------------------


class IdentityGraph(nn.Module):
    """Image -> identity embedding [N, D] of unit length."""

    def __init__(self, network: IdentityEncoder, side: int, image_input: ImageInput) -> None:
        super().__init__()
        self.preprocess = preprocess(network, side, image_input)
        plain: Any = folded(network)
        self.input_layer, self.body, self.output_layer = plain.input_layer, plain.body, plain.output_layer
        self.normalise = UnitLength()

    def forward(self, image: Tensor) -> Tensor:
        return self.normalise(self.output_layer(self.body(self.input_layer(self.preprocess(image)))))


class CodeSum(Float32Island):
    """Codes of the rows, the first in full and the others relative to it, and the average -> w+ [N, rows, w_dim]."""

    latent_avg: Tensor

    def __init__(self, latent_avg: Tensor) -> None:
        super().__init__()
        self.register_buffer("latent_avg", latent_avg.double())

    def forward(self, codes: list[Tensor]) -> Tensor:
        first, others = codes[0][:, None], torch.stack(codes[1:], dim=1)
        return torch.cat([first, first + others], dim=1) + self.latent_avg


class InverterGraph(nn.Module):
    """Image -> w+ [N, rows, w_dim]."""

    def __init__(self, network: Inverter, side: int, image_input: ImageInput) -> None:
        super().__init__()
        self.config = config = network.config
        self.preprocess = preprocess(network, side, image_input)
        plain: Any = folded(network)
        self.input_layer, self.body, self.styles = plain.input_layer, plain.body, plain.styles
        self.latlayer1, self.latlayer2 = plain.latlayer1, plain.latlayer2
        self.sum = CodeSum(network.latent_avg)
        self.ends = [sum(config.units[: stage + 1]) - 1 for stage in range(4)]

    def forward(self, image: Tensor) -> Tensor:
        config = self.config
        x, taps = self.input_layer(self.preprocess(image)), []
        for index, unit in enumerate(self.body):
            x = unit(x)
            if index in self.ends[1:]:
                taps.append(x)
        coarse = taps[2]
        middle = _twice(coarse) + self.latlayer1(taps[1])
        fine = _twice(middle) + self.latlayer2(taps[0])
        levels = [
            coarse if row < config.middle_row else middle if row < config.fine_row else fine
            for row in range(config.rows)
        ]
        return self.sum([head(level) for head, level in zip(self.styles, levels, strict=True)])


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)


class PositionedTokens(Float32Island):
    """Patches [N, T - 1, C] -> tokens [N, T, C], the class token first, positions added."""

    positions: Tensor

    def __init__(self, class_embedding: Tensor, positional_embedding: Tensor) -> None:
        super().__init__()
        positions = positional_embedding.double().clone()
        # A row of zeros stands where the class token goes; it and its position are one constant.
        positions[0] += class_embedding.double()
        self.register_buffer("positions", positions)

    def forward(self, patches: Tensor) -> Tensor:
        return F.pad(patches, (0, 0, 1, 0)) + self.positions


class FixedAttention(nn.Module):
    """Attention over a fixed number of tokens, spelled out."""

    def __init__(self, attention: Attention, tokens: int) -> None:
        super().__init__()
        width = attention.out_proj.in_features
        self.tokens, self.heads, self.each = tokens, attention.heads, width // attention.heads
        # The logits' scale goes into the queries; this also keeps their products small.
        scale = torch.ones(3 * width, dtype=torch.float64)
        scale[:width] = self.each**-0.5
        self.in_proj = _linear(
            attention.in_proj_weight.double() * scale[:, None], attention.in_proj_bias.double() * scale
        )
        self.out_proj = attention.out_proj

    def forward(self, x: Tensor) -> Tensor:
        # [N, T, 3 * width] -> three of [N, heads, T, each]
        x = self.in_proj(x).view(-1, self.tokens, 3, self.heads, self.each).permute(2, 0, 3, 1, 4)
        mixed = torch.softmax(x[0] @ x[1].transpose(2, 3), dim=-1) @ x[2]
        return self.out_proj(mixed.transpose(1, 2).reshape(-1, self.tokens, self.heads * self.each))


class FixedBlock(nn.Module):
    """Pre-normalised transformer block with the stream of sums in float32."""

    def __init__(self, block: Block, tokens: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2, self.mlp = block.ln_1, block.ln_2, block.mlp
        self.attn = FixedAttention(block.attn, tokens)
        self.add_1, self.add_2 = Add(), Add()

    def forward(self, x: Tensor) -> Tensor:
        x = self.add_1(x, self.attn(self.ln_1(x)))
        return self.add_2(x, self.mlp(self.ln_2(x)))


class AttributeGraph(nn.Module):
    """Image -> class embedding [N, E], not normalised, or tokens [N, T, C]."""

    proj: Tensor

    def __init__(self, network: AttributeEncoder, side: int, image_input: ImageInput, tokens: bool) -> None:
        super().__init__()
        self.preprocess = preprocess(network, side, image_input)
        plain: Any = folded(network)
        self.conv1, self.ln_pre = plain.conv1, plain.ln_pre
        self.position = PositionedTokens(network.class_embedding, network.positional_embedding)
        self.blocks = nn.ModuleList(FixedBlock(block, network.config.tokens) for block in plain.blocks)
        self.ln_post = None if tokens else plain.ln_post
        self.register_buffer("proj", None if tokens else plain.proj.detach())

    def forward(self, image: Tensor) -> Tensor:
        patches = self.conv1(self.preprocess(image)).flatten(2).transpose(1, 2)
        x = self.ln_pre(self.position(patches))
        for block in self.blocks:
            x = block(x)
        return x if self.ln_post is None else self.ln_post(x[:, 0]) @ self.proj


# --- choice ---------------------------------------------------------------------------------------------------------


def wrap(
    network: nn.Module,
    graph: str,
    *,
    side: int = 0,
    image_input: ImageInput = "float",
    dtype: torch.dtype = torch.float64,
) -> nn.Module:
    """The graph of a network as a module for inference; constants are computed in float64 and kept as `dtype`.

    side: of the images that the graph takes, in pixels; graphs that take codes need none. Parameters that stay as they
    are share their memory with the network's.
    """
    wrapped: nn.Module
    if graph == "mapping":
        wrapped = MappingGraph(network.mapping)  # type: ignore[arg-type]
    elif graph == "synthesis":
        wrapped = SynthesisGraph(network)  # type: ignore[arg-type]
    elif graph == "inverter":
        wrapped = InverterGraph(network, side, image_input)  # type: ignore[arg-type]
    elif graph == "identity":
        wrapped = IdentityGraph(network, side, image_input)  # type: ignore[arg-type]
    else:
        wrapped = AttributeGraph(network, side, image_input, get_graph(graph).output == "tokens")  # type: ignore[arg-type]
    return wrapped.to(dtype).eval().requires_grad_(False)


def run_network(network: nn.Module, graph: str, value: Tensor) -> Tensor:
    """What the network itself gives for the graph's input (images as float32 NCHW): the definition of the graph."""
    run: Any = network
    if graph == "mapping":
        return run.mapping(value)
    if graph == "synthesis":
        return run.synthesis(value)
    if graph == "attributes":
        return run(value).embedding
    if graph == "attribute_tokens":
        return run(value).tokens
    return run(value)
