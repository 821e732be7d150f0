"""Let a checkout of the repository run as it lies.

Installed, ``kernels`` and ``interop`` are inside this package; in the repository they lie beside
it.
Python started there finds this folder first, whatever is installed, and then needs to look there.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent

if not (HERE / "interop").exists() and (HERE.parent / "interop").exists():
    sys.modules["cudeform"].__path__.append(str(HERE.parent))
