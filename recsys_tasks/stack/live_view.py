"""Live view of the stages of `make run`: on a terminal, bars below the printed lines; elsewhere only the lines."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class LiveView:
    """Active stages with elapsed times, and a bar of the whole loop.

    A stage of known duration has a bar that fills; any other has one that pulses.

    Args:
        console: prints the lines above the bars.
        num_phases: number of phases of the loop.
    """

    def __init__(self, console: Console, num_phases: int) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._loop = self._progress.add_task("the whole loop", total=num_phases)
        self._stages: dict[str, TaskID] = {}

    def __enter__(self) -> LiveView:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def complete_phase(self) -> None:
        """Advances the bar of the whole loop."""
        self._progress.advance(self._loop)

    def start_stage(self, name: str, seconds: float | None = None) -> None:
        """Adds a stage.

        Args:
            seconds: expected duration, None if unknown.
        """
        if name not in self._stages:
            self._stages[name] = self._progress.add_task(f"  {name}", total=seconds)

    def finish_stage(self, name: str) -> None:
        """Removes a stage; no stage of that name is no error."""
        if name in self._stages:
            self._progress.remove_task(self._stages.pop(name))

    def refresh(self) -> None:
        """Fills the bars of stages of known duration by their elapsed time."""
        for task in self._progress.tasks:
            if task.id != self._loop and task.total is not None:
                self._progress.update(task.id, completed=min(task.elapsed or 0.0, task.total))
