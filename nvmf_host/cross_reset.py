"""Cross-Controller Reset as a host: stops the controllers of lost associations through a new one.

NVMe Base 2.3: the impacted controller is named by ID, CIU and CIRN; the answer has DW0 bit 0 set
once that one executes nothing any more.  Without that bit the reset goes on, and its end is not
waited for here: the fence is then lifted by time.
"""

import logging

from nvmf_transport.errors import CommandError, NvmfError
from nvmf_transport.identify import IdentifyController
from nvmf_transport.nvme import CrossControllerResetCommand

from .fencing import Fence, Fences
from .qpair import HostQueue

log = logging.getLogger(__name__)


def is_offered(controller: IdentifyController) -> bool:
    """True where this controller has an instance to be named by, as those do that offer it."""
    return bool(controller.ciu and controller.cirn)


async def reset_others(
    queue: HostQueue, controller: IdentifyController, own: Fence, fences: Fences
) -> None:
    """Stops every controller whose fence stands and that can be named; never raises.

    `own` is that of the association this goes over: a controller that names itself as it was named
    before is not told to stop itself.
    """
    if not is_offered(controller):
        return
    for fence in fences.standing():
        if not fence.ciu or not fence.cirn or fence.names_the_same(own):
            continue
        command = CrossControllerResetCommand(icid=fence.cntlid, ciu=fence.ciu, cirn=fence.cirn)
        try:
            response = await queue.execute(bytearray(command.pack()), name="Cross-Controller Reset")
        except CommandError as error:
            log.info("controller %#06x is fenced by time: %s", fence.cntlid, error)
        except NvmfError:
            return
        else:
            if response.result & CrossControllerResetCommand.IMMEDIATE:
                fence.lift("Cross-Controller Reset of the old controller")
