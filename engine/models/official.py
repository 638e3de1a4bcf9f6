"""The official checkpoints: what they hold, where they are published, under which terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from faceanon_engine.engine.errors import UserError


@dataclass(frozen=True)
class Address:
    """Where a file is published: `url` sends it, or a tar archive that holds a file of its name.

    sha256: of what the address sends, where its publisher states one.
    """

    url: str
    sha256: str | None = None
    archive: bool = False


@dataclass(frozen=True)
class OfficialFile:
    """A published checkpoint: its name, what it holds, its addresses in order, the page that offers it, its terms.

    optional: not needed beside the others, fetched only when it is named.
    """

    name: str
    holds: str
    addresses: tuple[Address, ...]
    page: str
    licence: str
    optional: bool = False


# The archives and their checksums stand in FALCO's lib/config.py (chi0tzp/FALCO), as does what is in each. The other
# publishers state no checksum: such a file is verified by its length and, on import, by every tensor that it holds, and
# its sha256 is recorded then.
_E4E_ARCHIVE = Address(
    "https://www.dropbox.com/s/1jujsdr6ytzilym/e4e.tar?dl=1",
    "b4a95155f2bebbb229b7dfc914fe937753b9a5b8de9a837875f9fbcacf8bb287",
    archive=True,
)
OFFICIAL: tuple[OfficialFile, ...] = (
    OfficialFile(
        "stylegan2_ffhq1024.pth",
        "generator",
        (
            Address(
                "https://www.dropbox.com/scl/fi/yec5wgg8j388fc0saigbj/genforce.tar?rlkey=kkhkkxvnc985746ichtdyct3f&dl=1",
                "63284b4f4ffeac38037061fd175c462afff82bbe570ed80092720a724a67a6dc",
                archive=True,
            ),
        ),
        "https://github.com/chi0tzp/FALCO#prerequisite-pre-trained-models",
        "NVIDIA's StyleGAN2 FFHQ weights, non-commercial (NVIDIA Source Code License-NC), converted by GenForce",
    ),
    OfficialFile(
        "e4e_ffhq_encode.pt",
        "inverter, and a generator",
        (_E4E_ARCHIVE,),
        "https://github.com/omertov/encoder4editing#pretrained-models",
        "code MIT; the decoder in it is NVIDIA's StyleGAN2 FFHQ, non-commercial",
    ),
    OfficialFile(
        "model_ir_se50.pth",
        "identity encoder",
        (
            Address(
                "https://www.dropbox.com/s/idulblr8pdrmbq1/arcface.tar?dl=1",
                "edd5854cacd86c17a78a11f70ab8c49bceffefb90ee070754288fa7ceadcdfb2",
                archive=True,
            ),
            _E4E_ARCHIVE,  # a second copy, which e4e's training begins with
        ),
        "https://github.com/TreB1eN/InsightFace_Pytorch",
        "code MIT; no terms are stated for the weights, which were trained on faces collected from the web",
    ),
    OfficialFile(
        "FaRL-Base-Patch16-LAIONFace20M-ep64.pth",
        "attribute encoder",
        (
            Address(
                "https://github.com/FacePerceiver/FaRL/releases/download/pretrained_weights/"
                "FaRL-Base-Patch16-LAIONFace20M-ep64.pth"
            ),
            Address(
                "https://www.dropbox.com/s/xxhmvo3q7avlcac/farl.tar?dl=1",
                "1d67cc6fd3cea9fdd7ec6af812a32e6b02374162d02137dd80827283d496b2d8",
                archive=True,
            ),
        ),
        "https://github.com/FacePerceiver/FaRL#pre-trained-backbones",
        "MIT",
    ),
    OfficialFile(
        "stylegan2-ffhq-1024x1024.pkl",
        "generator, in NVIDIA's own file",
        (
            Address(
                "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan2/versions/1/files/"
                "stylegan2-ffhq-1024x1024.pkl"
            ),
        ),
        "https://catalog.ngc.nvidia.com/orgs/nvidia/teams/research/models/stylegan2",
        "NVIDIA Source Code License, non-commercial",
        optional=True,
    ),
    OfficialFile(
        "ffhq.pkl",
        "generator, in NVIDIA's own file",
        (Address("https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/ffhq.pkl"),),
        "https://github.com/NVlabs/stylegan2-ada-pytorch",
        "NVIDIA Source Code License, non-commercial",
        optional=True,
    ),
)


def official_files(names: Sequence[str] = ()) -> tuple[OfficialFile, ...]:
    """The official files of those names, or those that are needed where none is named; raises UserError for another."""
    known = {file.name: file for file in OFFICIAL}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"unknown file {unknown[0]!r}: known are {', '.join(known)}")
    return tuple(known[name] for name in names) or tuple(file for file in OFFICIAL if not file.optional)
