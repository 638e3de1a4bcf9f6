from .boxes import Boxes as Boxes
from .boxes import assign as assign
from .boxes import notes as notes
from .boxes import read_boxes as read_boxes
from .folder import find_inputs as find_inputs
from .folder import left_out as left_out
from .reader import Reader as Reader
from .reader import prefetch as prefetch
from .recall import Recall as Recall
from .sample import Sample as Sample
from .sample import sample_at as sample_at

__all__: list[str]
