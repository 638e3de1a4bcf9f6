from .bundle import Bundle as Bundle
from .bundle import demo_path as demo_path
from .bundle import installed_bundles as installed_bundles
from .download import obtain as obtain
from .importing import import_bundle as import_bundle
from .official import OfficialFile as OfficialFile
from .official import official_files as official_files
from .opened import OpenedNetworks as OpenedNetworks
from .write import NetworkToWrite as NetworkToWrite
from .write import write_bundle as write_bundle

__all__: list[str]
