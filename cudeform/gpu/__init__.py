"""The engine on a GPU; it speaks to the device through ``protocol.Device`` alone."""

from cudeform.gpu.backward import backward
from cudeform.gpu.forward import forward
from cudeform.gpu.replay.launch_plans import run, workspace_bytes
from cudeform.gpu.second_order import double_backward
from cudeform.gpu.tangent import jvp

__all__ = ["backward", "double_backward", "forward", "jvp", "run", "workspace_bytes"]
