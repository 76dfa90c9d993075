"""Time of `import alignkit` beyond numpy and the parts of scipy it uses.

Bar: the median over fresh processes is below 0.15 s.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

PROCESSES, BAR = 15, 0.15
_PROBE = "import time; {before}; start = time.perf_counter(); {measured}; print(time.perf_counter() - start)"


def run() -> bool:
    used = _measured(
        "import alignkit, sys; print(' '.join(m for m in sys.modules if m.split('.')[0] in ('numpy', 'scipy')))"
    )
    floor = "import " + ", ".join(used.split())
    # The floor is imported first, so what is timed is alignkit's own share.
    seconds = [float(_measured(_PROBE.format(before=floor, measured="import alignkit"))) for _ in range(PROCESSES)]
    whole = [float(_measured(_PROBE.format(before="pass", measured="import alignkit"))) for _ in range(PROCESSES)]
    middle = statistics.median(seconds)
    print(
        f"import alignkit: {middle:.3f} s beyond numpy and scipy (fastest {min(seconds):.3f}), "
        f"{statistics.median(whole):.3f} s in all; medians of {PROCESSES}"
    )
    return middle < BAR


def _measured(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
