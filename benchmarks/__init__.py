"""Benchmarks behind the published figures. Each script prints a table with the host and the package versions."""
