"""Record the commands of a call once, and replay them for every similar call.

The algorithms run in Python against a ``Recorder``, which executes nothing. The recorded commands
form a launch plan, and only launch plans are executed on the GPU. A call whose plan is cached takes
25 to 70 us of host time. A call that makes its plan takes 10 to 30 times as long: see
``benchmarks/host_time.py``, without and with ``--replan``.
"""
