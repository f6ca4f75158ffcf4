"""Near-duplicates: a dialogue that says almost what another one says is kept once, the first in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rapidfuzz import fuzz

from safemt_api.messages import Dialogue

ALIKE = 95.0
"""From this share of equal words on (RapidFuzz's ``token_sort_ratio``, 0 to 100) two dialogues of one length count as one. A choice of
ours: dialogues about one query share its words and stay below it; copies with a few words changed lie above."""


def near_duplicates(dialogues: Iterable[Dialogue]) -> Iterator[tuple[Dialogue, str]]:
    """Those that come after one that says almost the same, with its id; kinds and lengths are compared each by itself."""
    kept: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for dialogue in dialogues:
        if dialogue.length == 1:
            continue  # the bare question, which every method asks
        said = " ".join(dialogue.user_texts).casefold()
        others = kept.setdefault((dialogue.kind, dialogue.length), [])
        twin = next((name for name, other in others if fuzz.token_sort_ratio(said, other, score_cutoff=ALIKE) >= ALIKE), None)
        if twin is None:
            others.append((dialogue.id, said))
        else:
            yield dialogue, twin
