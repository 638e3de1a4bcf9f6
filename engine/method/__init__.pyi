from .anonymized import AnonymizedBatch as AnonymizedBatch
from .falco import Falco as Falco
from .pairing import NearestNeighbours as NearestNeighbours
from .pool import Pool as Pool
from .pool import PoolSpec as PoolSpec
from .pool import list_pools as list_pools
from .pool_opening import open_or_make_pool as open_or_make_pool
from .preset import PRESETS as PRESETS
from .preset import Preset as Preset
from .preset import StoppingRule as StoppingRule
from .preset import get_preset as get_preset
from .stages import embed_attributes as embed_attributes
from .stages import embed_identity as embed_identity
from .stages import invert_images as invert_images
from .stages import synthesise as synthesise

__all__: list[str]
