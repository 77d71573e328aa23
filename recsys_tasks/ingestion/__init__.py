"""Ingestion: reads source formats, lands rows as text and loads them into `items`, `users` and `events`."""
