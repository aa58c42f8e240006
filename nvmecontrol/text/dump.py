"""Hex dumps."""


def hex_lines(data: bytes) -> list[str]:
    """16 bytes a line: offset, bytes in hex, and as ASCII."""
    width = max(3, len(f"{max(len(data) - 1, 0):x}"))
    lines = []
    for offset in range(0, len(data), 16):
        row = data[offset : offset + 16]
        shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{offset:0{width}x}: {row.hex(' '):<47}  {shown}")
    return lines
