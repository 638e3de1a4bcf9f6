from .falco import FalcoWorker as FalcoWorker
from .worker import Worker as Worker

__all__: list[str]
