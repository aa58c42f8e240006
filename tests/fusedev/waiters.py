"""Many requests of one kind from one process: `python -m` this, with PATH KIND COUNT.

Prints `started`, and at the end how many of them came back in full and the errors of the others.
"""

import os
import sys
import threading

_LENGTH = 4096


def _read(path: str, index: int) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        assert len(os.pread(fd, _LENGTH, index * _LENGTH % (1 << 20))) == _LENGTH
    finally:
        os.close(fd)


def _write(path: str, index: int) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        assert os.pwrite(fd, bytes(_LENGTH), index * _LENGTH % (1 << 20)) == _LENGTH
    finally:
        os.close(fd)


def _fsync(path: str, index: int) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def main() -> None:
    path, kind, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    call = {"read": _read, "write": _write, "fsync": _fsync}[kind]
    good = 0
    errors: set[str] = set()
    lock = threading.Lock()

    def work(index: int) -> None:
        nonlocal good
        try:
            call(path, index)
        except OSError as error:
            with lock:
                errors.add(str(error.strerror))
            return
        with lock:
            good += 1

    threading.stack_size(256 * 1024)
    threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    print("started", flush=True)
    for thread in threads:
        thread.join()
    print(good, sorted(errors), flush=True)


if __name__ == "__main__":
    main()
