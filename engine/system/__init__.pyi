from .allocator import keep_freed_memory as keep_freed_memory
from .cores import usable_cores as usable_cores
from .cuda_driver import Gpu as Gpu
from .cuda_driver import gpus as gpus
from .digests import sha256_of as sha256_of
from .files import write_atomic as write_atomic
from .files import write_result as write_result
from .locks import locked as locked
from .machine import describe_machine as describe_machine
from .memory import OutOfMemory as OutOfMemory
from .memory import is_out_of_memory as is_out_of_memory
from .packages import our_version as our_version
from .printable import first_line as first_line
from .progress import Observer as Observer
from .progress import Progress as Progress

__all__: list[str]
