from .compare import Change as Change
from .compare import Comparison as Comparison
from .compare import accepted_obstacles as accepted_obstacles
from .compare import compare_results as compare_results
from .compare import obstacles as obstacles
from .compare import read_result as read_result
from .measure import Budget as Budget
from .measure import host_probe as host_probe
from .measure import measure_interleaved as measure_interleaved
from .measure import resident_peak as resident_peak
from .measure import summarise as summarise
from .plan import MODES as MODES
from .plan import Mode as Mode
from .plan import Plan as Plan
from .run import run_plan as run_plan

__all__: list[str]
