"""The NVMe over Fabrics host: associations, controllers, namespaces, reconnection.

    import trio, nvmf_host, nvmf_tcp
    from nvmf_transport.interfaces import register

    async def main():
        register(nvmf_tcp.TcpTransport())
        async with nvmf_host.connect("127.0.0.1:4420", "nqn.2014-08.org.example:a") as controller:
            namespace = controller.namespaces[1]
            print(bytes(await namespace.read(0, 4096)).hex())

    trio.run(main)

Importing this package is cheap; `connect` and `open_host` load the rest when they are first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .host import Host, connect, open_host

__all__ = ["Host", "connect", "open_host"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import host

    return getattr(host, name)
