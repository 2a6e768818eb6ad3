"""Decisions read off a string of bytes, so that whoever mutates the bytes mutates the decisions."""

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


class Dice:
    """Reads numbers, choices and bytes; past the end every number is 0.

    Parameters
    ----------
    data
        What a fuzzer gives.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    @property
    def is_empty(self) -> bool:
        """Whether all bytes are used."""
        return self.place >= len(self.data)

    def take(self, n_bytes: int) -> bytes:
        """Give the next bytes, fewer at the end."""
        taken = self.data[self.place : self.place + n_bytes]
        self.place += n_bytes
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self.data))

    def number(self, below: int) -> int:
        """Give a whole number from 0 up."""
        n_bytes = max(1, ((below - 1).bit_length() + 7) // 8)
        return int.from_bytes(self.take(n_bytes), "little") % below

    def pick(self, items: Sequence[Item]) -> Item:
        """Choose one of several."""
        return items[self.number(len(items))]

    def edited(self, content: bytes) -> bytes:
        """Give a copy with a few bytes replaced, inserted, repeated or cut."""
        body = bytearray(content)
        for _ in range(1 + self.number(4)):
            place = self.number(1 << 24) % (len(body) + 1)
            how = self.number(5)
            if how == 0 and place < len(body):
                body[place] = self.number(256)
            elif how == 1:
                body[place:place] = self.take(self.number(16))
            elif how == 2:
                del body[place : place + self.number(64)]
            elif how == 3:
                body[place:place] = body[place : place + self.number(256)] * (1 + self.number(4))
            elif self.number(8) == 0:
                del body[place:]
        return bytes(body)
