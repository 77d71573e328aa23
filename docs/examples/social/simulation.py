"""The log of a simulated social feed, with known structure.

Authors belong to communities, users follow some of them. Users mostly see posts of authors whom they follow, like some,
and follow further authors of the same communities, after which they see their posts, too. Posts live three days.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np

COMMUNITIES = (
    *("gardening roses compost", "chess openings endgame", "running shoes intervals", "baking sourdough crumb"),
    *("astronomy nebula eyepiece", "vinyl records jazz", "climbing chalk crux", "photography lens bokeh"),
    *("cycling gravel tires", "pottery glaze kiln", "birds warbler migration", "cinema noir restoration"),
)
AUTHORS_PER_COMMUNITY, USERS, POSTS_PER_DAY, SESSIONS_PER_DAY = 10, 400, 150, 1.2
LIFETIME = timedelta(days=3)
LIKES = {"followed": 0.35, "community": 0.2, "elsewhere": 0.03}


def simulate(rng: np.random.Generator, start: datetime, days: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the posts and the reactions of some days, oldest first."""
    items = write_posts(rng, start, days)
    return items, simulate_reactions(rng, items, start, days)


def write_posts(rng: np.random.Generator, start: datetime, days: int) -> list[dict[str, Any]]:
    """Returns the posts, oldest first. The first authors of a community post most."""
    activity = 1.0 / np.arange(1, AUTHORS_PER_COMMUNITY + 1)
    posts = []
    for number, minute in enumerate(np.sort(rng.integers(0, days * 24 * 60, days * POSTS_PER_DAY)).tolist()):
        community = int(rng.integers(len(COMMUNITIES)))
        author = community * AUTHORS_PER_COMMUNITY + int(rng.choice(AUTHORS_PER_COMMUNITY, p=activity / activity.sum()))
        posted = start + timedelta(minutes=minute)
        words = rng.permutation(
            [*COMMUNITIES[community].split(), str(rng.choice(["today", "again", "advice", "first"]))]
        )
        posts.append(
            {
                "id": f"p{number}",
                "text": " ".join(words.tolist()),
                "author": f"author-{author}",
                "posted_at": posted.isoformat(),
                "ends_at": (posted + LIFETIME).isoformat(),
            }
        )
    return posts


def simulate_reactions(
    rng: np.random.Generator, posts: list[dict[str, Any]], start: datetime, days: int
) -> list[dict[str, Any]]:
    """Returns views, likes and follows, oldest first. A follow is of the author, at the post that led to it."""
    author = np.asarray([int(post["author"].removeprefix("author-")) for post in posts])
    community = author // AUTHORS_PER_COMMUNITY
    posted = np.asarray([datetime.fromisoformat(post["posted_at"]).timestamp() for post in posts])
    homes = [rng.choice(len(COMMUNITIES), 2, replace=False) for _ in range(USERS)]
    follows = [set((rng.choice(home, 6) * AUTHORS_PER_COMMUNITY + rng.integers(0, 10, 6)).tolist()) for home in homes]
    seen: list[set[int]] = [set() for _ in range(USERS)]
    events: list[dict[str, Any]] = []
    for visit, offset in enumerate(
        np.sort(rng.uniform(0, days * 86_400, int(USERS * SESSIONS_PER_DAY * days))).tolist()
    ):
        user, time = int(rng.integers(USERS)), start + timedelta(seconds=offset)
        for _ in range(int(rng.integers(3, 9))):
            age = time.timestamp() - posted
            weight = np.where((age >= 0) & (age < LIFETIME.total_seconds()), np.exp(-age / 86_400), 0.0)
            weight[list(seen[user])] = 0
            place = str(rng.choice(list(LIKES), p=[0.65, 0.25, 0.1]))
            is_followed, is_home = np.isin(author, list(follows[user])), np.isin(community, homes[user])
            weight *= {"followed": is_followed, "community": is_home & ~is_followed, "elsewhere": ~is_home}[place]
            if not weight.sum():
                continue
            post = int(rng.choice(len(posts), p=weight / weight.sum()))
            seen[user].add(post)
            likes = rng.random() < LIKES[place]
            dwell = float(rng.uniform(8, 60) if likes else rng.uniform(1, 8))
            event = {"user": f"u{user}", "visit": f"v{visit}", "post": posts[post]["id"]}
            events.append({**event, "action": "view", "at": time.isoformat(), "dwell_seconds": round(dwell, 1)})
            time += timedelta(seconds=dwell)
            if likes:
                events.append({**event, "action": "like", "at": time.isoformat()})
            if likes and place == "community" and rng.random() < 0.4:
                follows[user].add(int(author[post]))
                time += timedelta(seconds=2)
                events.append({**event, "action": "follow", "at": time.isoformat()})
            time += timedelta(seconds=3)
    events.sort(key=lambda event: event["at"])
    return [{"id": f"e{number}", **event} for number, event in enumerate(events)]
