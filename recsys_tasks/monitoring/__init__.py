"""Monitors of the served model, the alarms they raise and the actions that follow, and the report."""
