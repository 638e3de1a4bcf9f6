"""Networks that resemble those of the method and are others, known by the names and shapes of their tensors.

Some would be taken for one of ours and give wrong codes or pictures without a word; others deserve more than "unknown".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from faceanon_engine.engine.models.checkpoints.foreign import OtherNetwork
from faceanon_engine.engine.models.checkpoints.stored_tensors import StoredTensor
from faceanon_engine.engine.system.printable import printable

_GENERATOR = (
    "a generator of the StyleGAN2 architecture is needed, such as stylegan2-ffhq-1024x1024.pkl, which 'models fetch' "
    "gets when it is named"
)
_INVERTER = "take e4e's own e4e_ffhq_encode.pt, which 'models fetch' gets"
_IDENTITY = "take ArcFace's IR-SE50 in the layout of model_ir_se50.pth, which 'models fetch' gets"
_ATTRIBUTE = "take a vision transformer in OpenAI's layout, such as FaRL's, which 'models fetch' gets"
_LABELS = "give one that was trained without labels"
_RESNET = "a StyleGAN2 generator of the resnet architecture, which adds features where the paper's adds pictures"

_NAMED: tuple[tuple[str, str, str], ...] = (
    (
        r"synthesis\.input\.|synthesis\.L\d+_\d+_\d+\.",
        "a generator of StyleGAN3-T or StyleGAN3-R, another architecture",
        _GENERATOR,
    ),
    (r"(backbone|superresolution)\.(synthesis|block\d)", "a generator of 3D scenes, as EG3D's", _GENERATOR),
    (r"synthesis\.b\d+\.skip\.|synthesis\.skip_layer\d+\.", _RESNET, _GENERATOR),
    (r"synthesis\.(layer\d+\.apply_noise|lod$)|g_synthesis\.blocks\.", "a generator of the first StyleGAN", _GENERATOR),
    (r"(generator\.)?progression\.\d", "a generator of the first StyleGAN", _GENERATOR),
    (r"style_conv1\.modulated_conv\.|constant_input\.", "a generator in the layout of BasicSR and GFPGAN", _GENERATOR),
    (r"layers\.0\.conv\.affine\.", "the generator of a bundle", "give the bundle with --bundle"),
    (r"mapping\.(embed\.weight|label_weight)$", "a generator of labelled classes", _LABELS),
    (r"encoder\.linear\.weight$", "an encoder into W, with one code for all rows", _INVERTER),
    (r"visual\.layer1\.0\.", "CLIP with a ResNet", _ATTRIBUTE),
    (r"(vision_model|text_model)\.(encoder|embeddings)\.", "CLIP in the layout of Hugging Face", _ATTRIBUTE),
    (r"layer1\.0\.prelu\.weight$", "a recognition network of InsightFace (iresnet)", _IDENTITY),
)


def check_names(state: Mapping[Any, Any]) -> None:
    """Raises OtherNetwork where the tensors are those of a network that is known, and none of the method's."""
    names = [name for name in state if isinstance(name, str)]
    for pattern, what, remedy in _NAMED:
        if any(map(re.compile(pattern).match, names)):
            raise OtherNetwork(what, remedy)
    _check_pictures(names)
    for name in ("encoder.input_layer.0.weight", "encoder.conv1.weight"):
        first = state.get(name)
        if not isinstance(first, StoredTensor) or len(first.size) != 4:
            continue
        channels = first.size[1]
        if channels == 6:
            raise OtherNetwork("a ReStyle encoder (6 input channels: it refines a code in steps), not e4e's", _INVERTER)
        if channels != 3:
            raise OtherNetwork(f"an encoder of inputs with {channels} channels, such as pSp's for sketches", _INVERTER)


def _check_pictures(names: list[str]) -> None:
    """Only the paper's architecture makes a picture at every resolution."""
    for every, first in (
        (r"synthesis\.b\d+\.torgb\.", "synthesis.b4.torgb."),
        (r"synthesis\.output\d+\.", "synthesis.output0."),
    ):
        if any(map(re.compile(every).match, names)) and not any(name.startswith(first) for name in names):
            raise OtherNetwork("a StyleGAN2 generator of the orig or resnet architecture, with one picture", _GENERATOR)


def check_encoder_type(opts: Mapping[Any, Any]) -> bool:
    """Whether an encoder's options say that it is e4e's; False when they say nothing. Raises OtherNetwork for others.

    pSp's encoder has the same tensors, and uses them otherwise: each of its heads gives a row, where e4e's give
    differences from the first.
    """
    kind = opts.get("encoder_type")
    if "n_iters_per_batch" in opts:
        raise OtherNetwork("a ReStyle encoder (it refines a code in steps), not e4e's", _INVERTER)
    if not isinstance(kind, str):
        return False
    if kind == "Encoder4Editing":
        return True
    said = f"its options say {printable(kind[:60])}"
    if kind == "GradualStyleEncoder":
        raise OtherNetwork(f"a pSp encoder ({said}), with e4e's tensors and other codes", _INVERTER)
    if kind.startswith("BackboneEncoderUsingLastLayer") or kind == "SingleStyleCodeEncoder":
        raise OtherNetwork(f"an encoder into W, with one code for all rows ({said})", _INVERTER)
    if "BackboneEncoder" in kind or kind.startswith("ResNet"):
        raise OtherNetwork(f"a ReStyle encoder ({said}), not e4e's", _INVERTER)
    raise OtherNetwork(f"another encoder than e4e's ({said})", _INVERTER)
