"""What several queues say of one loss is one error; what one controller's bug ends is itself."""

import pytest
import trio

from nvmf_host.config import ConnectParams
from nvmf_host.groups import single_error
from nvmf_host.host import open_host
from nvmf_host.identity import resolve
from nvmf_host.messages import ConnectRequest
from nvmf_transport import interfaces
from nvmf_transport.errors import (
    ConnectionLostError,
    NotConnectedError,
    NvmfError,
    OutcomeUnknownError,
    ShutdownError,
)
from nvmf_transport.loop import LoopTransport


async def _raise_all(*errors: BaseException) -> None:
    async def fail(error: BaseException) -> None:
        raise error

    with single_error():
        async with trio.open_nursery() as nursery:
            for error in errors:
                nursery.start_soon(fail, error)


async def test_the_transports_error_stands_for_those_that_follow_from_it():
    lost = ConnectionLostError("the peer closed the connection")
    with pytest.raises(ConnectionLostError) as raised:
        await _raise_all(OutcomeUnknownError("CONNECT: outcome unknown"), lost)
    assert raised.value is lost


async def test_errors_of_different_kinds_become_one_of_them():
    with pytest.raises(NvmfError):
        await _raise_all(OutcomeUnknownError("sent"), NotConnectedError("not sent"))


async def test_a_bug_is_not_hidden_by_an_error_beside_it():
    with pytest.raises(ExceptionGroup):
        await _raise_all(ConnectionLostError("lost"), ValueError("a bug"))


class _Broken(LoopTransport):
    """A transport that raises what nobody expects of it."""

    name = "broken"

    async def resolve(self, address, *, deadline):
        raise UnicodeError("label too long")


async def test_a_controller_that_meets_a_bug_ends_alone(announce):
    announce("nvme0: ends by a fault of this program")
    interfaces.register(_Broken())
    identity = resolve("nqn.2024-01.org.example:host", "12345678-9abc-4def-8123-456789abcdef")
    request = ConnectRequest(
        address="target:1", subnqn="nqn.2024-01.org.example:disks", transport="broken"
    )
    async with open_host(identity=identity) as host:
        with pytest.raises(ShutdownError):
            await host.connect(ConnectParams.from_request(request, identity))
        assert host.controllers == {}
        # The host lives, and takes the next request.
        with pytest.raises(ShutdownError):
            await host.connect(ConnectParams.from_request(request, identity))
