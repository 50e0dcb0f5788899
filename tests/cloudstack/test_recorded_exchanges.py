"""The server of these tests answers as a real CloudStack 4.21 did.

Every recorded exchange is sent again, signed anew, to our server over HTTP. Compared are the status, the content type and
the whole body: its shape, states, job results, error codes and the words of errors. Not compared are ids, numbers, times,
addresses and keys, which are another server's own; and a few fields that the simulator showed or not by chance (`replay`).
Between the exchanges that were kept the recording did more: `replay.BETWEEN` does that. `listApis` is left out.

`data/exchanges.jsonl` is our own selection of those exchanges, so that this runs anywhere; where the whole recording lies
beside the project it is replayed too.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from managementserver import Cloud, serve
from replay import BETWEEN, Exchange, Player, read

if TYPE_CHECKING:
    from conftest import MovableClock

HERE = Path(__file__).parent
WHOLE = HERE.parents[1].parent / "shared/data/cloudstack/transcripts.jsonl"


@pytest.mark.parametrize(
    "path", [HERE / "data/exchanges.jsonl", *([WHOLE] if WHOLE.exists() else [])], ids=lambda p: p.stem
)
def test_answers_are_those_of_the_real_server(path: Path, clock: MovableClock) -> None:
    differences = []
    with serve(Cloud(clock)) as server:
        player = Player(server, clock)
        kept = [each for each in read(path) if each["params"]["command"] != "listApis"]
        for moment, exchanges in groupby(kept, _moment):
            together = list(exchanges)
            if prepare := BETWEEN.get((together[0]["scenario"], together[0]["step"])):
                prepare(player)
            found = player.together(together) if len(together) > 1 else [player.play(together[0])]
            differences += [f"{moment} {each}" for each in found if each]
    assert not differences, "\n".join(differences)


def _moment(exchange: Exchange) -> tuple[str, str]:
    """What was sent at one moment is kept together."""
    at_once = "sent at the same moment" in exchange["note"]
    return exchange["scenario"], exchange["note"] if at_once else f"step {exchange['step']}"
