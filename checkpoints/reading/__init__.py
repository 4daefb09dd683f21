"""Reading what people upload, without torch and without running anything that is inside.

`convert` is the whole of it; it is meant for a limited process, see `service.jobs.sandbox`.
"""

from checkpoints.reading.conversion import convert

__all__ = ["convert"]
