"""Writes the log of a simulated news site or social feed, with known structure; see `news/` and `social/`.

The last day is in files of its own: a model that never saw it is asked for it.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from news import simulation as news
from social import simulation as social

# Names of the files of items and of events, with the column of the time.
FILES = {
    "news": (("articles", "published_at"), ("reads", "at")),
    "social": (("posts", "posted_at"), ("reactions", "at")),
}


def main() -> None:
    """Writes the items and the events as JSON lines, and both of the last day."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("domain", choices=FILES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--until", type=datetime.fromisoformat, default=datetime(2026, 6, 15, tzinfo=UTC))
    parser.add_argument("--days", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    simulation = {"news": news.simulate, "social": social.simulate}[options.domain]
    start = options.until - timedelta(days=options.days)
    logs = simulation(np.random.default_rng(options.seed), start, options.days)
    last_day = (options.until - timedelta(days=1)).isoformat()
    options.folder.mkdir(parents=True, exist_ok=True)
    for (name, time), rows in zip(FILES[options.domain], logs, strict=True):
        for suffix, is_last in (("", False), ("-last-day", True)):
            lines = [json.dumps(row) for row in rows if (row[time] >= last_day) == is_last]
            (options.folder / f"{name}{suffix}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
