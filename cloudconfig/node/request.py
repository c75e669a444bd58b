"""The requests of user-data and network-config, read on the node: their mistakes never raise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cloudconfig.check import lockout, validate
from cloudconfig.node import datasource
from cloudconfig.node.status import Trouble
from cloudconfig.plan import merge, plan
from cloudconfig.text import addresses, jinja, parse, userdata
from cloudconfig.text.finding import WARNING, Finding, errors
from cloudconfig.text.schema import CloudConfig, WriteFile
from cloudconfig.text.userdata import Part

WARNINGS_MAX = 20  # on a console


class Request(NamedTuple):
    """The request in user-data; ``config`` is empty if there are ``troubles``."""

    config: CloudConfig
    scripts: tuple[Part, ...]
    troubles: tuple[Trouble, ...]
    warnings: tuple[Trouble, ...] = ()


def network_files(data: bytes) -> tuple[tuple[WriteFile, ...], tuple[Finding, ...]]:
    """The result of network-config, if there is any."""
    if not data:
        return (), ()
    from cloudconfig.plan import network  # most nodes have none

    return network.read(data)


def static_addresses(texts: list[str], network_config: bytes) -> dict[str, str]:
    """Addresses that the texts and network-config give to cards."""
    files = [
        unit.content or ""
        for text in texts
        if addresses.may_be_static(text)
        for unit in parse.parse(text).config.units
        if unit.name.endswith(".network")
    ]
    files += [file.content.decode() for file in network_files(network_config)[0]]
    return addresses.given(files)


def judge(contents: userdata.Contents) -> Request:
    """The request in user-data."""
    parts = [part for part in contents.parts if part.kind == userdata.CLOUD_CONFIG]
    scripts = tuple(part for part in contents.parts if part.kind == userdata.SCRIPT)
    documents = parse.parse_all(part.text for part in parts)
    findings = list(contents.findings)
    for part, document in zip(parts, documents, strict=True):
        findings.extend(one._replace(part=part.name) for one in (*document.findings, *validate.check(document)))
    troubles = [Trouble(one.path, placed(one)) for one in errors(findings)]
    # Ignored keys are reported here, too: not every user validates first.
    warnings = tuple(Trouble(one.path, placed(one)) for one in findings if one.severity == WARNING)[:WARNINGS_MAX]
    if not troubles:
        try:
            config = _combined(parts, documents)
            return Request(lockout.with_key_files(config), scripts, (), warnings)
        except plan.PlanError as error:
            troubles.append(Trouble(error.path, error.message))
    return Request(CloudConfig(), (), tuple(troubles), warnings)


def _combined(parts: list[Part], documents: list[parse.Document]) -> CloudConfig:
    """All parts as one. Raises PlanError."""
    if not any(part.merge or "merge" in part.text for part in parts):
        return plan.combine([document.config for document in documents])
    return merge.combine(parts, documents)


def instance_names(seed: datasource.Seed) -> Mapping[str, object]:
    """The data that jinja templates of user-data may use."""
    return jinja.instance_data(seed.source, seed.instance_id, seed.hostname, seed.keys, seed.meta)


def texts_of(contents: userdata.Contents) -> tuple[str, ...]:
    """The texts that may contain the essentials. A script is not one: it may write another machine's user-data."""
    return (*(part.text for part in contents.parts if part.kind == userdata.CLOUD_CONFIG), *contents.ruins)


def placed(finding: Finding) -> str:
    places = [finding.part] if finding.part else []
    places += [f"line {finding.line}"] if finding.line else []
    return f"{finding.message} ({', '.join(places)})" if places else finding.message
