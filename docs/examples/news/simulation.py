"""The log of a simulated news site, with known structure.

Readers have favorite sections. Articles live two days, and follow stories, whose names their headlines have. A quarter
of the articles are bait: everybody opens them, and leaves within seconds. A good read takes half a minute or more, and
some are shared.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np

SECTIONS = {
    "politics": "election minister parliament vote coalition budget reform senate treaty campaign",
    "economy": "inflation bank trade market wages factory exports shares tax growth",
    "science": "telescope protein climate vaccine physics genome fossil ocean laboratory orbit",
    "sports": "final goal champion league coach transfer stadium record marathon injury",
    "culture": "theatre novel museum orchestra exhibition cinema director poetry gallery festival",
    "technology": "chip software privacy startup battery satellite network browser sensor robot",
    "travel": "island railway mountain harbor hotel border trail airline lake village",
    "food": "recipe bakery harvest restaurant spice vineyard market kitchen cheese coffee",
}
BAIT = ["shocking", "unbelievable", "secret", "trick", "stars", "reveal", "never", "guess", "doctors", "hate", "weird"]
SYLLABLES = ["ka", "ri", "to", "mel", "sun", "dor", "vin", "ela", "pra", "tis", "nor", "bek"]
LIFETIME = timedelta(days=2)
ARTICLES_PER_DAY, BAIT_SHARE, STORY_DAYS = 64, 0.25, 3
READERS, SESSIONS_PER_DAY = 400, 1.2


def simulate(rng: np.random.Generator, start: datetime, days: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the articles and the reads of some days, oldest first."""
    items = write_articles(rng, start, days)
    return items, simulate_reads(rng, items, start, days)


def write_articles(rng: np.random.Generator, start: datetime, days: int) -> list[dict[str, Any]]:
    """Returns the articles, oldest first."""
    articles: list[dict[str, Any]] = []
    stories: dict[str, tuple[int, str]] = {}
    for day in range(days):
        minutes = np.sort(rng.integers(0, 24 * 60, ARTICLES_PER_DAY))
        for minute in minutes.tolist():
            section = str(rng.choice(list(SECTIONS)))
            if day >= stories.get(section, (0, ""))[0]:
                stories[section] = day + STORY_DAYS, "".join(rng.choice(SYLLABLES, 3)).title()
            is_bait = rng.random() < BAIT_SHARE
            words = rng.choice(BAIT if is_bait else SECTIONS[section].split(), 4, replace=False).tolist()
            published = start + timedelta(days=day, minutes=minute)
            articles.append(
                {
                    "id": f"a{len(articles)}",
                    "headline": " ".join(words if is_bait else [stories[section][1], *words]).capitalize(),
                    "section": section,
                    "author": {"name": f"{section} desk {rng.integers(3)}"},
                    "published_at": published.isoformat(),
                    "expires_at": (published + LIFETIME).isoformat(),
                }
            )
    return articles


def simulate_reads(
    rng: np.random.Generator, articles: list[dict[str, Any]], start: datetime, days: int
) -> list[dict[str, Any]]:
    """Returns the reads and shares, oldest first."""
    names = list(SECTIONS)
    favorites = [rng.choice(names, 2, replace=False).tolist() for _ in range(READERS)]
    published = np.asarray([datetime.fromisoformat(article["published_at"]).timestamp() for article in articles])
    is_bait = np.asarray([article["headline"].split()[0].lower() in BAIT for article in articles])
    sections = np.asarray([article["section"] for article in articles])
    seen: list[set[int]] = [set() for _ in range(READERS)]
    events: list[dict[str, Any]] = []
    session_offsets = np.sort(rng.uniform(0, days * 86_400, int(READERS * SESSIONS_PER_DAY * days)))
    for visit, offset in enumerate(session_offsets.tolist()):
        reader = int(rng.integers(READERS))
        time = start + timedelta(seconds=offset)
        section = None
        for _ in range(int(rng.integers(2, 7))):
            age = time.timestamp() - published
            weight = np.where((age >= 0) & (age < LIFETIME.total_seconds()), np.exp(-age / 43_200), 0.0)
            weight[list(seen[reader])] = 0
            wants_bait = rng.random() < BAIT_SHARE
            if not wants_bait and (section is None or rng.random() < 0.4):
                section = str(rng.choice([*favorites[reader], str(rng.choice(names))], p=[0.55, 0.35, 0.1]))
            weight *= is_bait if wants_bait else ~is_bait & (sections == section)
            if not weight.sum():
                continue
            article = int(rng.choice(len(articles), p=weight / weight.sum()))
            seen[reader].add(article)
            enjoys = not wants_bait and (sections[article] in favorites[reader] or rng.random() < 0.2)
            dwell = float(rng.uniform(35, 240) if enjoys else rng.uniform(2, 12))
            event = {"reader": f"r{reader}", "visit": f"v{visit}", "article": articles[article]["id"]}
            events.append({**event, "action": "read", "at": time.isoformat(), "dwell_seconds": round(dwell, 1)})
            time += timedelta(seconds=dwell)
            if enjoys and rng.random() < 0.15:
                events.append({**event, "action": "share", "at": time.isoformat()})
            time += timedelta(seconds=5)
    events.sort(key=lambda event: event["at"])
    return [{"id": f"e{number}", **event} for number, event in enumerate(events)]
