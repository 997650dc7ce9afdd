"""The study that a user holds, and where what is advised meets what is shown."""

from sensitivity.study.reading import read
from sensitivity.study.study import Study, read_thesis

__all__ = ["Study", "read", "read_thesis"]
