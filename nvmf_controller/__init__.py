"""The controller's side: subsystems, their controllers and namespaces, and who serves them.

    subsystem = NvmSubsystem("nqn.2024-01.org.example:disks")
    subsystem.add_namespace(Namespace(1, RamDisk(64 << 20)))
    async with serve(transport, subsystem, [Address("127.0.0.1", 0)]) as server:
        print(server.endpoints)

`nvmfd` (`main`) is this with a command line.
"""

from .association import Association, State
from .backing import BackingStore, InlineStore, RamDisk
from .devices import Device, open_namespace
from .discovery import DiscoverySubsystem
from .fault_file import parse_fault_plan, read_fault_plan
from .faults import FaultPlan, Rule
from .file_backing import FileStore
from .identity import default_subnqn, file_uuid
from .namespace import Namespace
from .server import Server, ServerConfig, serve
from .statistics import StatisticsSnapshot
from .subsystem import ControllerConfig, NvmSubsystem, Subsystem
from .volatile_cache import VolatileCache

__all__ = [
    "Association",
    "BackingStore",
    "ControllerConfig",
    "Device",
    "DiscoverySubsystem",
    "FaultPlan",
    "FileStore",
    "InlineStore",
    "Namespace",
    "NvmSubsystem",
    "RamDisk",
    "Rule",
    "Server",
    "ServerConfig",
    "State",
    "StatisticsSnapshot",
    "Subsystem",
    "VolatileCache",
    "default_subnqn",
    "file_uuid",
    "open_namespace",
    "parse_fault_plan",
    "read_fault_plan",
    "serve",
]
