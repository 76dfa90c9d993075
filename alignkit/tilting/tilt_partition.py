"""log Z of many tilts of one base law, each found once."""

from __future__ import annotations

import numpy as np

from alignkit.base.law import ExactLaw
from alignkit.contracts import Floats, TiltProgram, TiltSession
from alignkit.tilting.quadrature import PartitionQuadrature

__all__ = ["TiltPartition"]

# Entries of θ in one call of a law (512 MB).
_BLOCK_ENTRIES = 1 << 26


class TiltPartition:
    """log E_p exp⟨θ, x⟩ at tilts θ = coordinates @ directions: the law's own, else by quadrature over its denoiser.

    Arguments:
        program: its base is an `ExactLaw`, or has an exact denoiser.
        session: opened on the program; it has the denoiser where the law has no closed forms.

    Attributes:
        method: where log Z comes from, in a few words.
    """

    def __init__(self, program: TiltProgram, session: TiltSession) -> None:
        self._program = program
        # A session without a denoiser is never asked for a quadrature: its law has closed forms.
        self._quadrature = PartitionQuadrature(session, program.base.sigma_max)  # type: ignore[arg-type]
        self._coordinates = np.zeros((0, program.directions.shape[0]))
        self._values, self._errors = np.zeros(0), np.zeros(0)
        self.method = "closed form" if isinstance(program.base, ExactLaw) else "quadrature"

    def __call__(self, coordinates: Floats) -> tuple[Floats, Floats]:
        """log Z of tilts given by coordinates (j, m), and bounds of its numerical errors, (j,) each.

        Raises:
            ImproperTargetError: log Z grows without end.
            NonFiniteError: the denoiser gave a NaN or an infinity.
        """
        known = len(self._coordinates)
        _, first, places = np.unique(
            np.vstack([self._coordinates, coordinates]), axis=0, return_index=True, return_inverse=True
        )
        unknown = np.sort(first[first >= known]) - known
        if unknown.size:
            values, errors = self._find(coordinates[unknown])
            self._coordinates = np.vstack([self._coordinates, coordinates[unknown]])
            self._values, self._errors = np.append(self._values, values), np.append(self._errors, errors)
        # A row is known by its first appearance; new ones were appended in the order of theirs.
        rank = np.searchsorted(unknown + known, first)
        index = np.where(first < known, first, known + rank)[places.reshape(-1)[known:]]
        return self._values[index], self._errors[index]

    def _find(self, coordinates: Floats) -> tuple[Floats, Floats]:
        base = self._program.base
        if isinstance(base, ExactLaw):
            parts = max(1, coordinates.shape[0] * base.ambient // _BLOCK_ENTRIES)
            values = [
                base.log_partition(part @ self._program.directions) for part in np.array_split(coordinates, parts)
            ]
            return np.concatenate(values), np.zeros(coordinates.shape[0])
        found = self._quadrature(coordinates)
        return found.values, found.errors
