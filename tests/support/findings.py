"""What the doctor has found, by its colour, and one check of the doctor's with what it needs."""

from recipe.egrsd.doctor.__main__ import CHECKS, examine
from recipe.egrsd.doctor.case import Case, Finding, Level

GREEN, YELLOW, RED = Level


def said(found: list[Finding], level: Level) -> str:
    return "\n".join(finding.text for finding in found if finding.level is level)


def examine_only(case: Case, title: str) -> list[Finding]:
    """One check with what it needs, as examine runs it."""
    needed = [check for check in CHECKS if check.title == title]
    while needed[0].needs:
        needed.insert(0, next(check for check in CHECKS if check.title == needed[0].needs))
    return examine(case, needed)[title]
