"""What is to be built, and whether it is already there.

For ``osbuild image`` and ``osbuild container``, this is all that runs when nothing changed.

The rest is :mod:`builder.pipeline.job`, which is imported when there is something to do.
"""

from __future__ import annotations

import time
from dataclasses import replace

from builder.pipeline.order import CONTAINER, BuildResult, Order, Settings, build_id
from terminal import Failure


def build_image(settings: Settings) -> BuildResult:
    """Build a node image, or a container if that is what the definition is of, for a target.

    Raises :class:`Failure` for a definition or lock that is broken or out of date, a target that does not fit, a
    package that cannot be fetched or is not the locked one, a tool that fails, a full disk, a release for which
    security updates wait. The former contents of the output folder then remain.
    """
    begin = time.monotonic()
    with settings.phases.step("check"):
        order = Order.of(settings)
        made_from = order.inputs()
    if settings.release and settings.outdated != "ignore":
        from builder.pipeline import outdated  # for releases only: its import is slow

        order = replace(order, updates=outdated.ask(order))
    with settings.phases.step("check"):
        is_done = order.is_done(build_id(made_from))
    if is_done:
        return BuildResult.unchanged(order, begin)
    from builder.pipeline import job  # its import takes longer than the rest of a call that finds all there

    return job.make(order, made_from, begin)


def build_container(settings: Settings) -> BuildResult:
    """Build a container from a definition with a ``container`` section; failures as :func:`build_image`."""
    if settings.definition is None:
        raise Failure("no definition of a container is named", hint="osbuild container image/containers/redis.yaml")
    return build_image(replace(settings, target=settings.target or CONTAINER))
