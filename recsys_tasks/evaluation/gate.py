"""The gate: whether a challenger may serve, with every number and reason."""

from __future__ import annotations

from dataclasses import dataclass

PRIMARY, SECONDARY = "mrr_20", "recall_20"
Table = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Decision:
    """Whether the challenger is promoted, and why; a reason for each rule, kept or broken."""

    promote: bool
    reasons: list[str]


def decide(table: Table, baselines: tuple[str, ...], champion: str | None, margin: float) -> Decision:
    """Judges the row `test` of a table of metrics.

    Args:
        table: metrics on the same questions of the challenger (`test`), the baselines and the champion.
        baselines: rows that must be beaten on both metrics.
        champion: the champion's row, if there is a champion.
        margin: how much worse than the champion, as a share, the challenger may be on both metrics.
    """
    kept: list[str] = []
    broken: list[str] = []
    challenger = table["test"]
    for metric in (PRIMARY, SECONDARY):
        for name in baselines:
            line = f"{metric} {challenger[metric]:.4f} against {name} {table[name][metric]:.4f}"
            (kept if challenger[metric] > table[name][metric] else broken).append(line)
        if champion is not None:
            least = table[champion][metric] * (1 - margin)
            rival = f"champion {table[champion][metric]:.4f} (at least {least:.4f})"
            line = f"{metric} {challenger[metric]:.4f} against {rival}"
            (kept if challenger[metric] >= least else broken).append(line)
    if broken:
        return Decision(False, [f"not good enough: {line}" for line in broken] + [f"good: {line}" for line in kept])
    return Decision(True, [f"good: {line}" for line in kept])
