from cudeform.gpu.protocol import *  # noqa
