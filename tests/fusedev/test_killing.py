"""Waits of those who have been killed end, and no others."""

import trio
import trio.testing

from fusedev.killing import let_the_killed_go
from nvmf_host.errors import KilledError
from nvmf_host.io_request import Opener
from tests.fusedev.fakes import FakeHost


class Scene:
    """Two namespaces that wait, and a list of those who have been killed."""

    def __init__(self):
        self.host = FakeHost()
        self.namespaces = [self.host.add(name, 1 << 20) for name in ("nvme0ns1", "nvme1ns1")]
        for namespace in self.namespaces:
            namespace.pause()
        self.killed = set()
        self.looks = []
        self.ended = []

    async def dying(self, pids):
        self.looks.append((trio.current_time(), set(pids)))
        return self.killed & set(pids)

    async def read(self, namespace, opener):
        try:
            await namespace.read(0, 512, opener=opener)
        except KilledError:
            self.ended.append((opener, trio.current_time()))


async def test_who_is_killed_is_let_go_within_two_seconds(autojump_clock):
    scene = Scene()
    first, second = scene.namespaces
    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_the_killed_go, scene.host, scene.dying)
        await trio.sleep(10.6)
        for namespace, pid in ((first, 1), (first, 2), (second, 3)):
            nursery.start_soon(scene.read, namespace, Opener(pid, 0))
        nursery.start_soon(scene.read, first, None)
        await trio.testing.wait_all_tasks_blocked()
        scene.killed = {2, 3}
        await trio.sleep(2)

        assert {opener.pid for opener, _ in scene.ended} == {2, 3}
        assert all(at <= 12.6 for _, at in scene.ended)
        assert (first.waiting, second.waiting) == (2, 0)
        nursery.cancel_scope.cancel()


async def test_nobody_is_looked_at_while_nobody_waits_for_long(autojump_clock):
    scene = Scene()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_the_killed_go, scene.host, scene.dying)
        await trio.sleep(10.9)
        nursery.start_soon(scene.read, scene.namespaces[0], Opener(1, 0))
        await trio.sleep(0.2)
        for namespace in scene.namespaces:
            namespace.resume()
        await trio.sleep(10)
        nursery.cancel_scope.cancel()

    assert scene.looks == []
