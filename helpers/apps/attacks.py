"""The twelve attacks of notebook 13, and what each of them came to, before and after the mend.

It lives in a module, so that each section can note what its cells have seen, and the last can show it.
"""

from __future__ import annotations

ATTACKS = (
    "a foreign page on Channels",
    "a foreign page on Socket.IO",
    "DNS rebinding",
    "a forged X-Forwarded-Host",
    "an outsider joins a private room",
    "an outsider publishes into it",
    "an outsider joins a victim's own room",
    "a forged user name",
    "a token used after the logout",
    "an oversize message",
    "a flood",
    "a script in a message",
)
"""Their names, in the order of the notebook."""

_seen: dict[str, tuple[object, object]] = {}


def note(attack: str, before: object, after: object) -> None:
    """Keep what an attack came to in this kernel, in place of what was noted before.

    Args:
        attack: one of `ATTACKS`.
        before: what the attacker got.
        after: what the same attacker got from the mended server.

    Raises:
        ValueError: there is no such attack.
    """
    if attack not in ATTACKS:
        raise ValueError(f"{attack!r} is none of the twelve: {', '.join(ATTACKS)}.")
    _seen[attack] = (before, after)


def noted() -> list[dict[str, object]]:
    """Return a row for each attack, for `table`: one whose section has not run in this kernel says so."""
    nothing = ("its section has not run", "")
    return [
        {"attack": attack, "before": before, "after": after}
        for attack in ATTACKS
        for before, after in [_seen.get(attack, nothing)]
    ]
