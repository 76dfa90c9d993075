"""All that a report tells of one result, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alignkit.certificates import KLCertificate, TransportCertificate
from alignkit.compiler.declaration import Declaration
from alignkit.compiler.plan import Plan
from alignkit.contracts import Progress
from alignkit.errors import Status
from alignkit.report.environment import environment_rows
from alignkit.report.study import Study, study_of
from alignkit.report.tilts import Tilts, tilts_of
from alignkit.tilting.fitted import AnnealingStage, FittedTilt
from alignkit.transport.fitted import FittedTransport

__all__ = ["Findings", "findings_of"]


@dataclass(frozen=True, eq=False)
class Findings:
    """What was asked, how it was solved, and what came out.

    Arguments:
        plan: how the problem was solved.
        certificate: what was achieved.
        status: how the solve ended.
        declared: the problem as it was written down; None where the result does not know.
        study: draws before and after.
        tilts: that the law is a mixture of; None where it has none.
        stages: of annealing; empty where there was none.
        environment: versions, device, seeds and times, by name.
    """

    plan: Plan
    certificate: KLCertificate | TransportCertificate
    status: Status
    declared: Declaration | None
    study: Study
    tilts: Tilts | None
    stages: tuple[AnnealingStage, ...]
    environment: Mapping[str, str]


def findings_of(
    plan: Plan,
    certificate: KLCertificate | TransportCertificate,
    status: Status,
    fitted: FittedTilt | FittedTransport,
    declared: Declaration | None,
    *,
    rows: int,
    seed: int,
    progress: Progress = None,
) -> Findings:
    """Draw from a result and gather what there is to tell.

    Arguments:
        plan, certificate, status, declared: as for `Findings`.
        fitted: the sampler.
        rows: how many draws to look at, before and after.
        seed: fixes them.
        progress: told how far it is.
    """
    study = study_of(plan, fitted, rows, seed=seed, progress=progress)
    return Findings(
        plan=plan,
        certificate=certificate,
        status=status,
        declared=declared,
        study=study,
        tilts=None if isinstance(fitted, FittedTransport) else tilts_of(fitted, plan.base.shape),
        stages=() if isinstance(fitted, FittedTransport) else fitted.moments.stages,
        environment=environment_rows(plan, declared, device=study.device, seed=seed),
    )
