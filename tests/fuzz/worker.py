"""One target under atheris: `python -m tests.fuzz.worker TARGET [libFuzzer's arguments]`."""

import shlex
import sys
import traceback

import atheris

from .targets import harness, no_fault_logged

OURS = ["fusedev", "nvmecontrol", "nvmf_controller", "nvmf_host", "nvmf_tcp", "nvmf_transport"]


def main() -> None:
    """Runs until libFuzzer has enough, or found something."""
    target, *arguments = sys.argv[1:]
    with atheris.instrument_imports(include=OURS):
        check = harness(target)

    def one_input(data: bytes) -> None:
        try:
            with no_fault_logged():
                check(data)
        except BaseException:
            # Whole, with what is inside groups; atheris shows the outermost.
            traceback.print_exc()
            raise

    # What libFuzzer hands to a shell where it starts itself anew, as merging does.
    itself = f"{shlex.quote(sys.executable)} -m tests.fuzz.worker {target}"
    atheris.Setup([itself, *arguments], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
