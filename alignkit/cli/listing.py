"""`alignkit backends` and `alignkit atoms`: what there is."""

from __future__ import annotations

import argparse
from typing import Any

import alignkit as ak
from alignkit.cli.arguments import add_command, print_json
from alignkit.expressions import ENTRIES

__all__ = ["add_to"]


def add_to(commands: Any) -> None:
    """Add the commands."""
    backends = add_command(
        commands,
        "backends",
        _backends,
        summary="list the backends, what each offers or why it cannot be used",
        description="List every backend registered in the entry-point group alignkit.backends.",
        example="alignkit backends",
    )
    atoms = add_command(
        commands,
        "atoms",
        _atoms,
        summary="list the atoms and affine operations of the modelling language",
        description="List every atom and affine operation, with its curvature for affine arguments and its formula.",
        example="alignkit atoms | grep convex",
    )
    for command in (backends, atoms):
        command.add_argument("--json", action="store_true", help="print JSON")


def _backends(options: argparse.Namespace) -> int:
    statuses = ak.installed_backends()
    if options.json:
        names = ("name", "available", "reason", "distribution")
        print_json([{name: getattr(status, name) for name in names} for status in statuses])
        return 0
    for status in statuses:
        mark = "available" if status.available else "unavailable"
        print(f"{status.name:<12} {mark:<12} {status.reason}  [{status.distribution}]")
    return 0


def _atoms(options: argparse.Namespace) -> int:
    if options.json:
        print_json([{name: getattr(row, name) for name in ("name", "kind", "formula")} for row in ENTRIES])
        return 0
    for row in ENTRIES:
        print(f"{row.name:<20} {row.kind:<8} {row.formula}")
    return 0
