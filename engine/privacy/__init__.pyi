from .linkage import PairModel as PairModel
from .linkage import fused as fused
from .linkage import held_out_scores as held_out_scores
from .verification import Share as Share
from .verification import accepted as accepted
from .verification import first_ranked as first_ranked
from .verification import threshold_at as threshold_at

__all__: list[str]
