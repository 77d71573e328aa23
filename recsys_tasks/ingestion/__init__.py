"""From source formats through landing tables into `items`, `users` and `events`."""
