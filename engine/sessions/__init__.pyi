from .cache import EngineCache as EngineCache
from .engine_key import EngineOptions as EngineOptions
from .graphs import GRAPHS as GRAPHS
from .graphs import Artifact as Artifact
from .opening import Prepare as Prepare
from .opening import Wanted as Wanted
from .opening import open_engine as open_engine
from .opening import open_session as open_session
from .runs import Runs as Runs
from .runs import Sessions as Sessions
from .runs import sessions_of_bundle as sessions_of_bundle
from .runs import sessions_of_folder as sessions_of_folder
from .runs import settle as settle
from .session import Profile as Profile
from .session import Session as Session

__all__: list[str]
