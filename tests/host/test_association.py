"""The end of an association: what is told, in which order, and when its sockets close."""

import pytest
import trio

from nvmf_host.association import open_association
from nvmf_transport.address import Address
from nvmf_transport.errors import ConnectionLostError, NvmfError
from nvmf_transport.loop import ConnectFault

from .hosting import params, until
from .scripted import Answer, Fate, Scripted, scripted


class Watcher:
    """Remembers failures, and whether a command had ended by then."""

    def __init__(self) -> None:
        self.errors: list[NvmfError] = []

    def __call__(self, error: NvmfError) -> None:
        self.errors.append(error)


def opened(target: Scripted, watcher: Watcher, **fields):
    return open_association(
        target.network,
        params(**fields),
        on_failed=watcher,
        on_namespaces=lambda _nsids: None,
    )


@pytest.mark.parametrize("qid", [0, 1, 2])
async def test_the_loss_of_any_queue_is_the_loss_of_all_and_told_once(qid, autojump_clock):
    watcher = Watcher()
    async with scripted(Scripted()) as target:
        async with opened(target, watcher) as association:
            target.close_queue(qid)
            await association.failed.wait()
            # The other two go on until their owner has seen to the end.
            assert [queue.qid for queue in association.queues if queue.error is not None] == [qid]
            target.close_queue((qid + 1) % 3)
            await trio.sleep(1)
        assert len(watcher.errors) == 1
        assert isinstance(association.error, ConnectionLostError)
        assert association.error is watcher.errors[0]


async def test_the_owner_hears_of_a_loss_before_any_command_ends(autojump_clock):
    seen: list[str] = []
    target = Scripted(faults={"READ": Fate.SILENT})
    async with (
        scripted(target),
        open_association(
            target.network,
            params(),
            on_failed=lambda _error: seen.append("failed"),
            on_namespaces=lambda _nsids: None,
        ) as association,
        trio.open_nursery() as nursery,
    ):

        async def read() -> None:
            sqe = bytearray(64)
            sqe[0:1], sqe[4:5] = b"\x02", b"\x01"
            try:
                await association.io[0].execute(sqe, data_in=memoryview(bytearray(512)))
            except NvmfError as error:
                seen.append(error.kind)

        nursery.start_soon(read)
        await until(lambda: "READ" in target.names())
        target.close_queue(1)
        await until(lambda: len(seen) == 2)
    assert seen == ["failed", "outcome-unknown"]


@pytest.mark.parametrize("orderly", [True, False])
async def test_the_controller_is_seen_to_stop_before_the_sockets_close(orderly, autojump_clock):
    target = Scripted(reset_after_s=1.5, shutdown_after_s=1.5)
    async with scripted(target):
        async with opened(target, Watcher()) as association:
            assert await association.stop(orderly=orderly) is None
            assert association.stopped
            assert not target.at("closed")
            assert 1.5 <= trio.current_time() < 1.8
        await until(lambda: len(target.at("closed")) == 3)
    assert ("CC.SHN" if orderly else "CC.EN=0") in target.names(0)


@pytest.mark.parametrize("orderly", [True, False])
async def test_a_controller_that_does_not_stop_is_given_up_on(orderly, autojump_clock):
    target = Scripted(reset_after_s=None, shutdown_after_s=None, cap_to=6)
    async with scripted(target), opened(target, Watcher()) as association:
        problem = await association.stop(orderly=orderly)
        assert trio.current_time() == pytest.approx(3, abs=0.3)
        assert problem is not None
        assert ("SHST" if orderly else "RDY=0") in problem or "3 s" in problem
        assert not association.stopped


async def test_a_controller_that_says_nothing_is_given_up_on(autojump_clock):
    target = Scripted(cap_to=255)
    async with scripted(target), opened(target, Watcher()) as association:
        target.faults["Property Get CC"] = Fate.SILENT
        assert await association.stop(orderly=False) is not None
        # CAP.TO is 127.5 s; nobody waits that long for an end.
        assert trio.current_time() == 15


async def test_a_dead_admin_queue_is_told_nothing(autojump_clock):
    target = Scripted()
    async with scripted(target), opened(target, Watcher()) as association:
        target.close_queue(0)
        await association.failed.wait()
        problem = await association.stop(orderly=True)
        assert problem is not None
        assert "could not be told" in problem


async def test_leaving_without_a_word_closes_everything(autojump_clock):
    target = Scripted()
    async with scripted(target):
        async with opened(target, Watcher()):
            pass
        await until(lambda: len(target.at("closed")) == 3)
        assert not target.network.connections


async def test_a_bad_address_of_a_name_costs_its_share_only(autojump_clock):
    """The first address does not answer; the second has the other half of the time."""
    target = Scripted()
    async with scripted(target):
        target.network.endpoints = (Address("nobody", 1), Address("target", 4420))
        async with opened(target, Watcher()) as association:
            assert association.endpoint.address.host == "target"
        target.network.connect_fault = ConnectFault.HANG
        with pytest.raises(NvmfError):
            async with opened(target, Watcher()):
                pass
        assert trio.current_time() == 10


async def test_a_completion_for_no_command_ends_the_association(autojump_clock):
    target = Scripted()
    watcher = Watcher()
    async with scripted(target), opened(target, watcher) as association:
        target.aers[0] = 29
        target.complete_aer(Answer().status)
        await association.failed.wait()
        assert "CID 29" in str(association.error)
        assert association.io[0].error is None
