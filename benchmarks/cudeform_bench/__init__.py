"""The benchmark of cudeform: ``python -m cudeform bench`` in a checkout.

``command`` is the command line, ``configs`` defines the problems, and ``table`` formats the
measurements. ``cpu`` and ``gpu`` have the contestants, the timing and the report for each device.
"""
