"""jinja templates of user-data, first line ``## template: jinja``, rendered on the node with its instance data.

Names are cloud-init's: ``v1.local_hostname``, ``v1.instance_id``, ``ds.meta_data.local_hostname`` and so on, those of
``v1`` also without the prefix. In a sandbox, and strict: a name without a value is an error at its place, since
cloud-init's ``CI_MISSING_JINJA_VAR`` in a host name or a URL is of no use. The cost of rendering is limited, too.
jinja2 is not in every image: without it a template is an error that says what to do instead.
"""

from __future__ import annotations

import re
import resource
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from terminal import Failure

RENDERED_MAX = 1 << 20
INSIDE_MAX = 16 << 10
"""Characters inside of tags: jinja2 takes a kilobyte of memory for each."""
CPU_S = 5.0
"""Seconds of CPU for rendering, of an emulated node's too: loops without output cost nothing else."""
MEMORY = 64 << 20
"""Bytes that rendering may add to the process."""
ON_THE_NODE = True
"""Whether our image has python3-jinja2: the host refuses what a node cannot read.

A test compares it with image/node.yaml."""
UNRENDERED = "a jinja template: its syntax is right, and the rest shows on the node"
UNRENDERED_HINT = "see all of it here: cloudconfig render FILE --set v1.local_hostname=web-1 ..."
_MISSING_HINT = "render it on the host: cloudconfig render FILE --set v1.local_hostname=web-1 ... -o OUT"
_FILENAME = "<template>"
_TAG = re.compile(r"\{[{%]|[%}]\}")
_NAME = re.compile(r"(?:no attribute |^)'([^']+)'")


class TemplateError(Failure):
    """A template that cannot be rendered; ``line`` and ``column`` are those of the template, from 1."""

    def __init__(self, message: str, line: int, column: int, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.line = line
        self.column = column


def instance_data(
    source: str, instance_id: str, hostname: str, keys: tuple[str, ...], meta: Mapping[str, object]
) -> dict[str, object]:
    """The names that a template may use, from a datasource's values.

    ``meta`` is its meta-data. Missing values have no name."""
    under = {key.replace("-", "_"): value for key, value in meta.items()}
    v1: dict[str, object] = {
        "cloud_name": source.partition(":")[0],
        "platform": source.partition(":")[0],
        "instance_id": instance_id,
        "local_hostname": hostname,
        "public_ssh_keys": list(keys),
        "region": under.get("region"),
        "availability_zone": under.get("availability_zone"),
    }
    v1 = {name: value for name, value in v1.items() if value or value == []}
    return {**v1, "v1": v1, "ds": {"meta_data": {**meta, **under}}}


def expand(text: str, instance: Mapping[str, object] | None) -> str | None:
    """The text below the first line, rendered.

    None without ``instance`` data: then only the syntax is judged. Raises TemplateError."""
    if instance is None and not ON_THE_NODE:
        raise TemplateError("a jinja template, which this image does not read", 1, 1, hint=_MISSING_HINT)
    try:
        import jinja2
        import jinja2.sandbox
    except ImportError:
        raise TemplateError("a jinja template, and this node has no jinja2", 1, 1, hint=_MISSING_HINT) from None
    source = text.partition("\n")[2]
    if _inside(source) > INSIDE_MAX:
        raise TemplateError(f"a template with more than {INSIDE_MAX >> 10} KiB inside its tags", 1, 1)

    class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
        """Products are capped: one multiplication makes more text than there is memory."""

        intercepted_binops = frozenset(("*", "**", "%"))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "%" and isinstance(left, str):
                raise ValueError("write ~ instead of %, which makes texts of any width")
            if isinstance(left, list | tuple) or isinstance(right, list | tuple):
                raise ValueError("a list cannot be multiplied")
            sizes = [len(one) if isinstance(one, str) else abs(int(one)) for one in (left, right)]
            if (operator == "*" and sizes[0] * sizes[1] > RENDERED_MAX) or (operator == "**" and sizes[1] > 64):
                raise ValueError("a product that is too large")
            return super().call_binop(context, operator, left, right)

    environment = Sandbox(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    try:
        template = environment.from_string(source)
        if instance is None:
            return None
        pieces, size = [], 0
        with _time(), _memory():
            for piece in template.generate(instance):
                size += len(piece)
                if size > RENDERED_MAX:
                    raise TemplateError(f"the template makes more than {RENDERED_MAX >> 20} MiB", 1, 1)
                pieces.append(piece)
        return "".join(pieces)
    except jinja2.TemplateSyntaxError as error:
        line = error.lineno + 1
        raise TemplateError(
            f"not a jinja template: {error.message}", line, _column(text, line, error.message or "")
        ) from None
    except jinja2.UndefinedError as error:
        line = _line(error)
        hint = f"there are: {', '.join(sorted(_names(instance or {})))[:400]}; or {{{{ name | default('x') }}}}"
        raise TemplateError(
            f"the template: {error.message}", line, _column(text, line, error.message or ""), hint=hint
        ) from None
    except TemplateError:
        raise
    except (
        jinja2.TemplateError,
        AttributeError,
        TypeError,
        ValueError,
        ArithmeticError,
        LookupError,
        RecursionError,
        MemoryError,
    ) as error:
        # An expression of the template raised it: an error in the template, reported with the template's line.
        reason = type(error).__name__ if isinstance(error, MemoryError | RecursionError) else str(error)[:200]
        line = _line(error)
        raise TemplateError(f"the template fails: {reason}", line, _column(text, line, "")) from None


@contextmanager
def _time() -> Iterator[None]:
    """Raise ValueError after :data:`CPU_S`; in the main thread alone, which is the one that gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(_signal: int, _frame: object) -> None:
        raise ValueError(f"it takes more than {CPU_S:g} s of CPU")

    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_S, 0.1)  # again, since a C function may swallow the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def _memory() -> Iterator[None]:
    """Raise MemoryError beyond :data:`MEMORY`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    limit = used + MEMORY if soft == resource.RLIM_INFINITY else min(soft, used + MEMORY)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _inside(source: str) -> int:
    """How many characters stand between tags' begins and ends."""
    total, begin = 0, -1
    for found in _TAG.finditer(source):
        if begin < 0 and found[0] in ("{{", "{%"):
            begin = found.start()
        elif begin >= 0 and found[0] in ("}}", "%}"):
            total += found.end() - begin
            begin = -1
        if total > INSIDE_MAX or (begin >= 0 and found.end() - begin > INSIDE_MAX):
            return INSIDE_MAX + 1
    return total + (len(source) - begin if begin >= 0 else 0)


def _names(instance: Mapping[str, object]) -> list[str]:
    return [
        f"{group}.{name}"
        for group, inner in (("v1", instance.get("v1")), ("ds.meta_data", _meta(instance)))
        if isinstance(inner, Mapping)
        for name in inner
        if name.isidentifier()
    ]


def _meta(instance: Mapping[str, object]) -> object:
    ds = instance.get("ds")
    return ds.get("meta_data") if isinstance(ds, Mapping) else None


def _column(text: str, line: int, message: str) -> int:
    """The column of the name in the message, else of the first tag, from 1."""
    row = text.split("\n")[line - 1] if line else ""
    names = _NAME.findall(message)
    for what in (*(rf"\b{re.escape(name)}\b" for name in reversed(names)), r"\{[{%#]"):
        found = re.search(what, row)
        if found:
            return found.start() + 1
    return 1


def _line(error: BaseException) -> int:
    """The line of the text in a traceback that jinja2 has mapped back to it.

    The first line is not part of the template."""
    line, frame = 0, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == _FILENAME:
            line = frame.tb_lineno
        frame = frame.tb_next
    return line + 1
