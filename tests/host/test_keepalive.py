"""Keep Alive by timestamps: when it is due, when the peer is dead, to the microsecond."""

import pytest
import trio

from nvmf_host import admin
from nvmf_host.association import Association, open_association
from nvmf_host.controller import Controller
from nvmf_host.state import ControllerState
from nvmf_transport import status as st
from nvmf_transport.errors import ConnectionLostError, NvmfError

from .hosting import hosting, in_state, params
from .scripted import Answer, Fate, Scripted, scripted


async def live(target: Scripted, until_s: float, **fields) -> tuple[Association, NvmfError | None]:
    """An association without I/O until a time of the clock, or until it fails."""
    async with open_association(
        target.network,
        params(**fields),
        on_failed=lambda _error: None,
        on_namespaces=lambda _nsids: None,
    ) as association:
        with trio.move_on_at(until_s):
            await association.failed.wait()
    return association, association.error


@pytest.mark.parametrize("tbkas", [False, True])
async def test_an_idle_association_sends_one_every_half_kato(tbkas, autojump_clock):
    async with scripted(Scripted(tbkas=tbkas)) as target:
        _, error = await live(target, 31, kato_s=10)
    assert error is None
    assert target.at("Keep Alive") == pytest.approx([5, 10, 15, 20, 25, 30], abs=1e-6)


@pytest.mark.parametrize(
    ("begun_at_s", "kato_s", "sent_at_s"),
    [
        # On halves of a second, at most half of one early, and then half of KATO later each.
        (0.3, 15, [7.5, 15, 22.5]),
        (0.8, 15, [8, 15.5, 23]),
        # A short one is not sent much more often for it.
        (0.3, 1, [0.75, 1.25, 1.75]),
    ],
)
async def test_those_of_many_associations_are_sent_at_the_same_moments(
    begun_at_s, kato_s, sent_at_s, autojump_clock
):
    async with scripted(Scripted()) as target:
        await trio.sleep(begun_at_s)
        _, error = await live(target, sent_at_s[-1] + 0.1, kato_s=kato_s)
    assert error is None
    assert target.at("Keep Alive") == pytest.approx(sent_at_s, abs=1e-6)


async def test_a_larger_kato_that_is_granted_is_the_one_in_effect(autojump_clock):
    async with scripted(Scripted(kato_ms=40_000)) as target:
        association, error = await live(target, 61, kato_s=10)
    assert error is None
    assert association.kato_s == 40
    assert target.at("Keep Alive") == pytest.approx([20, 40, 60], abs=1e-6)


async def test_without_kato_there_is_none(autojump_clock):
    async with scripted(Scripted(kato_ms=5000)) as target:
        association, error = await live(target, 100, kato_s=0)
    assert error is None
    assert association.kato_s == 0
    assert target.at("Keep Alive") == []


@pytest.mark.parametrize("tbkas", [False, True])
async def test_a_silent_peer_is_dead_kato_after_its_last_proof_of_life(tbkas, autojump_clock):
    async with scripted(Scripted(tbkas=tbkas)) as target:
        answered = iter([None, None])
        target.faults["Keep Alive"] = lambda: next(answered, Fate.SILENT)
        _, error = await live(target, 100, kato_s=10)
        ended_at = trio.current_time()
    assert isinstance(error, ConnectionLostError)
    assert "KATO" in str(error)
    # Answered at 5 and 10; the third, at 15, is not.
    assert target.at("Keep Alive") == pytest.approx([5, 10, 15], abs=1e-6)
    assert ended_at == pytest.approx(20, abs=1e-6)


async def test_a_late_answer_is_a_proof_of_life_when_it_comes(autojump_clock):
    async with scripted(Scripted()) as target, trio.open_nursery() as nursery:

        def freeze() -> None:
            connection = target.network.connections[0]
            connection.freeze()
            nursery.start_soon(thaw)
            target.faults["Keep Alive"] = Fate.SILENT

        async def thaw() -> None:
            await trio.sleep(4)
            target.network.connections[0].thaw()

        target.faults["Keep Alive"] = freeze
        _, error = await live(target, 100, kato_s=10)
        ended_at = trio.current_time()
    assert error is not None
    # Sent at 5, answered at 9; the next is due at once (10), and is not answered.
    assert target.at("Keep Alive") == pytest.approx([5, 10], abs=1e-6)
    assert ended_at == pytest.approx(19, abs=1e-6)


async def test_a_refusal_is_an_answer(autojump_clock):
    faults = {"Keep Alive": Answer(st.INVALID_OPCODE.with_dnr())}
    async with scripted(Scripted(faults=faults)) as target:
        _, error = await live(target, 50, kato_s=10)
    assert error is None


async def traffic(controller: Controller, every_s: float, times: int) -> None:
    for _ in range(times):
        await trio.sleep(every_s)
        await controller.namespaces[1].read(0, 512)


async def test_traffic_puts_keep_alive_off_with_tbkas(autojump_clock):
    async with scripted(Scripted(tbkas=True)) as target, hosting(target.network) as (host, _):
        controller = await host.connect(params(kato_s=10))
        await traffic(controller, 4, 5)
        assert target.at("Keep Alive") == []
        await trio.sleep(6)
        assert target.at("Keep Alive") == pytest.approx([25], abs=1e-6)


async def test_traffic_does_not_without_tbkas(autojump_clock):
    async with scripted(Scripted()) as target, hosting(target.network) as (host, _):
        controller = await host.connect(params(kato_s=10))
        await traffic(controller, 4, 5)
        assert target.at("Keep Alive") == pytest.approx([5, 10, 15, 20], abs=1e-6)


@pytest.mark.parametrize(("tbkas", "dead_at"), [(True, 34), (False, 10)])
async def test_completions_of_io_are_proof_of_life_with_tbkas_alone(
    tbkas, dead_at, autojump_clock, announce
):
    announce("association lost: no proof of life")
    faults = {"Keep Alive": Fate.SILENT}
    async with (
        scripted(Scripted(tbkas=tbkas, faults=faults)) as target,
        hosting(target.network) as (host, _),
    ):
        controller = await host.connect(params(kato_s=10))
        with trio.move_on_at(25):
            await traffic(controller, 4, 6)
        await in_state(controller, ControllerState.LOST)
        assert controller.since == pytest.approx(dead_at, abs=1e-6)


async def test_the_keep_alive_goes_past_a_full_admin_queue(autojump_clock):
    """One CID is kept for it, whatever waits on the admin queue."""
    faults = {"Get Log Page 02h": Fate.SILENT}
    async with (
        scripted(Scripted(faults=faults)) as target,
        hosting(target.network) as (host, _),
        trio.open_nursery() as nursery,
    ):
        controller = await host.connect(params(kato_s=10))
        queue = controller.live_association().admin
        for _ in range(40):
            nursery.start_soon(admin.get_log_page, queue, 2, 512)
        await trio.sleep(31)
        assert controller.state is ControllerState.LIVE
        assert queue.waiting > 0
        assert target.at("Keep Alive") == pytest.approx([5, 10, 15, 20, 25, 30], abs=1e-6)
        nursery.cancel_scope.cancel()
