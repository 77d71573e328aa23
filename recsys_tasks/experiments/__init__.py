"""Online experiments: arms and assignment, interleaving, sequential tests, off-policy estimates and online metrics."""
