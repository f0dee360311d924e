"""Which turns of a long history are read: the first messages, and the newest turns. Knows nothing
of what lengths are counted in.

Where a state leaves less than an eighth of the bound for the next turn, its oldest turns are left
out until it takes half (never the newest, if it fits). So a window moves once in many turns, and
what is made of the history is append-only between two moves. Where it stands is a function of the
history alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from critic.errors import HistoryTooLong


def window_starts(
    first: int, turns: Sequence[tuple[int, int]], most: int | None, unit: str
) -> Iterator[int | HistoryTooLong]:
    """For each turn, and for one that would follow, the first turn of its window; or what is wrong
    where the first messages and the turn alone are too long. ``first``: length of the first
    messages; ``turns``: of each turn alone, and with the replies to it; ``most``: the bound, all in
    ``unit``.

    >>> list(window_starts(4, [(2, 5)] * 6, 32, "characters"))
    [0, 0, 0, 0, 0, 3, 3]
    """
    start, length = 0, first
    for number in range(len(turns) + 1):
        said = turns[number][0] if number < len(turns) else 0
        if most is not None and length > most - most // 8:
            while start < number - 1 and length > most // 2:
                length -= turns[start][1]
                start += 1
        while most is not None and start < number and length + said > most:
            length -= turns[start][1]
            start += 1
        if most is not None and length + said > most:
            what = "the first messages and one turn" if said else "the first messages"
            yield HistoryTooLong(f"{what} take {length + said} {unit}; the critic reads {most}")
        else:
            yield start
        if number < len(turns):
            length += turns[number][1]


def readable(start: int | HistoryTooLong) -> int:
    """Of what ``window_starts`` gave. Raises: ``HistoryTooLong``."""
    if isinstance(start, HistoryTooLong):
        raise start
    return start
