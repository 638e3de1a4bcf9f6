from .generators import estimate_w_avg as estimate_w_avg
from .reading import ImportedNetwork as ImportedNetwork
from .reading import read_checkpoint as read_checkpoint

__all__: list[str]
