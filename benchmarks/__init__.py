"""Figures this project claims, and how to get them again. Each script prints a table with machine and versions."""
