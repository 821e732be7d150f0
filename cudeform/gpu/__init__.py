"""The engine on a GPU: forward, backward, jvp, double_backward, and ``run``, which executes them.

The four functions take a ``Device`` and queue commands: kernel launches, matrix products and fills.
``run`` passes them a recorder as the device, stores the recorded commands as a launch plan, and
replays the plan on the GPU, for this call and for every similar call (``replay``). So the Python
code here runs once per kind of call, and its speed hardly matters.
"""

from cudeform.gpu.algorithms.sums import forward as sums_forward
from cudeform.gpu.arithmetic import Arithmetic, OnDevice
from cudeform.gpu.backward import backward
from cudeform.gpu.forward import forward
from cudeform.gpu.replay.launch_plans import run, workspace_bytes
from cudeform.gpu.second_order import double_backward, jvp

__all__ = [
    "Arithmetic",
    "OnDevice",
    "backward",
    "double_backward",
    "forward",
    "jvp",
    "run",
    "sums_forward",
    "workspace_bytes",
]
