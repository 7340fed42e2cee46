"""What a sweep shows: a line when a run starts, one when it ends, and last what failed or was made."""

import logging
import shlex
import time
from pathlib import Path

from run_notebook import STOPPED
from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake.logging import LogEvent

TAIL = 15  # lines of a failed run's output that are shown
REPEATED = ("CalledProcessError", "Exiting because")  # what Snakemake adds to a failure shown already


class Report(logging.Handler):
    """Prints Snakemake's events as one line per run of a notebook; the long account is in `.snakemake/log`.

    Args:
        study: Name of the study.
        home: The folder to which Snakemake's paths are relative.
        figures: The folder of the study's figures.
    """

    def __init__(self, study: str, home: Path, figures: Path):
        super().__init__()
        self.study, self.home, self.figures = study, home, figures
        self.total = self.ended = 0
        self.begun: dict[int, float] = {}
        self.logs: dict[int, list[Path]] = {}
        self.failed: list[Path] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record's line, if it has one."""
        events = {
            LogEvent.RUN_INFO: self.open,
            LogEvent.JOB_INFO: self.start,
            LogEvent.JOB_FINISHED: self.finish,
            LogEvent.JOB_ERROR: self.fail,
        }
        events.get(getattr(record, "event", None), self.other)(record)

    def take_over(self, logger: logging.Logger) -> None:
        """Take the place of what Snakemake prints; its log file stays."""
        files = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
        logger.handlers[:] = [*files, self]

    def open(self, record: logging.LogRecord) -> None:
        """Say how many runs there are to do."""
        self.total = record.stats["total"] - record.stats.get("all", 0)
        self.say(f"{self.study}: {self.total} notebook runs to do")

    def start(self, record: logging.LogRecord) -> None:
        """Say that a run starts."""
        if record.log:  # only the rule `all` has none
            self.begun[record.jobid] = time.monotonic()
            self.logs[record.jobid] = [self.home / path for path in record.log]
            self.say(f"{'':{self.width}} run    {self.label(record.jobid)}")

    def finish(self, record: logging.LogRecord) -> None:
        """Say that a run is done."""
        if record.job_id in self.logs:
            self.end(record.job_id, "done")

    def fail(self, record: logging.LogRecord) -> None:
        """Say that a run failed, with the end of what it printed."""
        executed, printed = self.logs[record.jobid]
        lines = printed.read_text(errors="replace").splitlines() if printed.exists() else []
        if lines[-1:] == [STOPPED]:
            return
        self.end(record.jobid, "FAILED")
        for line in lines[-TAIL:]:
            self.say(f"    {line}")
        self.failed.append(executed if executed.exists() else printed)

    def other(self, record: logging.LogRecord) -> None:
        """Show warnings and errors as they are."""
        message = record.getMessage()
        if message.startswith(NOTHING_TO_BE_DONE_MSG):
            self.say(f"{self.study}: nothing to do; the figures are in {self.figures}")
        elif record.levelno >= logging.WARNING and not any(text in message for text in REPEATED):
            self.say(message)

    def conclude(self) -> None:
        """Say what failed or what was made, and nothing more afterwards."""
        if self.failed:
            names = shlex.join(map(str, self.failed))
            self.say(f"{len(self.failed)} of {self.total} runs failed, kept with the traceback: {names}")
        elif self.ended < self.total:
            self.say(f"stopped after {self.ended} of {self.total} runs; the same command goes on from there")
        else:
            self.say(f"{self.study}: done; the figures are in {self.figures}")
        self.setLevel(logging.CRITICAL + 1)

    def end(self, job: int, how: str) -> None:
        """Count a run as ended, and say so."""
        self.ended += 1
        seconds = time.monotonic() - self.begun[job]
        self.say(f"{f'{self.ended}/{self.total}':>{self.width}} {how:6} {self.label(job)} ({seconds:.0f} s)")

    def label(self, job: int) -> str:
        """The notebook and the cell of a run, as in `02_prune nli-0`."""
        executed = self.logs[job][0]
        return f"{executed.parent.name} {executed.stem}"

    @property
    def width(self) -> int:
        """Columns that the counts take."""
        return 2 * len(str(self.total)) + 1

    @staticmethod
    def say(line: str) -> None:
        """Print at once, beside what `make` prints."""
        print(line, flush=True)
