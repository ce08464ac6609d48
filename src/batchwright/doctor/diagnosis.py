"""All checks of a run: what is found, the worst first, and a verdict in a sentence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from batchwright._format import capital, listed, plural
from batchwright.doctor.checks import CHECKS
from batchwright.doctor.finding import LEVELS, Finding
from batchwright.doctor.notes import failure_of
from batchwright.doctor.records import Run


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a run."""

    run: Run
    findings: tuple[Finding, ...]  # errors first; within a level, those that cost most first

    @property
    def has_errors(self) -> bool:
        """Whether the script does not train what was intended."""
        return any(each.level == "error" for each in self.findings)

    @property
    def verdict(self) -> str:
        """Say in a sentence what was found; if the command has failed, say that first."""
        failure, found = failure_of(self.run), self._found
        if not failure:
            return found
        if not any(each.updates for each in self.run.ranks):
            return f"{failure} Nothing else can be said about it."
        return f"{failure} {found}"

    @property
    def _found(self) -> str:
        counts = {level: sum(each.level == level for each in self.findings) for level in LEVELS}
        if not any(each.updates for each in self.run.ranks):
            return "No update was seen: nothing can be said about this run."
        if not counts["error"] and not counts["warning"]:
            if not self.findings:
                return "Nothing found that is wrong or wasteful."
            names = listed([each.name for each in self.findings])
            return f"Nothing found that has to be changed. Good to know: {names}."
        said = [plural(counts[level], level) for level in ("error", "warning") if counts[level]]
        worst = self.findings[0]
        return f"{' and '.join(said)} found. {capital(worst.name)}: {worst.figure}"

    def as_json(self) -> dict[str, object]:
        """Return what `--json` prints."""
        findings = [asdict(each) for each in self.findings]
        return {"verdict": self.verdict, "findings": findings}


def diagnose(run: Run, also: Iterable[Finding] = ()) -> Diagnosis:
    """Check a run.

    Args:
        run: What was seen of it.
        also: What was found in another way, for example by resuming it.

    Returns:
        What is found, the worst first. O(what was seen).

    Example:
        >>> diagnose(Run(ranks=())).verdict
        'No update was seen: nothing can be said about this run.'
    """
    found = [*also, *(finding for check in CHECKS for finding in check(run))]
    ranked = sorted(found, key=lambda each: (LEVELS.index(each.level), -each.share))
    return Diagnosis(run, tuple(ranked))
