from .config_file import read_config as read_config
from .dry_run import plan_job as plan_job
from .manifest import ItemRow as ItemRow
from .manifest import Manifest as Manifest
from .report import Failure as Failure
from .report import JobObserver as JobObserver
from .report import JobPlan as JobPlan
from .report import JobResult as JobResult
from .report import PlannedItem as PlannedItem
from .run import run_job as run_job
from .settings import JobOptions as JobOptions
from .settings import JobSettings as JobSettings
from .settings import job_settings as job_settings
from .stages import StageResult as StageResult
from .tables import Table as Table

__all__: list[str]
