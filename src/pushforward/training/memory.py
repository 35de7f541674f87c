"""One setting of the C library that is worth a third of the time of a convolution on a CPU.

glibc gives every large buffer back to the kernel when it is freed; the next allocation faults its pages in again, a
page at a time. Keeping freed memory in the process ends that. It costs nothing but the memory of the largest step.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # <malloc.h>


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next step; False where there is no glibc."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
