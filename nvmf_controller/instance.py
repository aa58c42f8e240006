"""Which instance of a controller: what tells a controller from what it was before a reset."""

import secrets
from typing import Self

import attrs

_CIU_MAX = 255


def _random() -> int:
    return secrets.randbits(64) or 1


@attrs.frozen
class Instance:
    """CIU and CIRN of Identify Controller (Base 2.3, section 5.2.13.2.1): 8 and 64 bits, not 0.

    A controller level reset makes a new one: commands of the one before are over.
    """

    ciu: int = 1
    cirn: int = attrs.field(factory=_random)

    def next(self) -> Self:
        """The instance after a reset."""
        return type(self)(self.ciu % _CIU_MAX + 1)
