"""How somebody asks for a precision of what is not quantized: in Python, and in the file of a scheme."""

from __future__ import annotations

import json
from collections.abc import Iterable

from sensitivity.records.recipes.scheme import Rest


def in_python(rest: Rest, keep_fp32: Iterable[str] = ()) -> str:
    """The call that gives such a scheme."""
    modules = tuple(keep_fp32)
    return f"scheme.with_rest({rest!r}, keep_fp32={modules})" if modules else f"scheme.with_rest({rest!r})"


def in_file(rest: Rest, keep_fp32: Iterable[str] = ()) -> str:
    """What stands in the file of such a scheme."""
    modules = list(keep_fp32)
    return f'"rest": "{rest}"' + (f', "keep_fp32": {json.dumps(modules)}' if modules else "")
