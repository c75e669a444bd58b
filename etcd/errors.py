"""Errors between us and etcd, by what the caller can do about them."""

from __future__ import annotations

from terminal import Failure


class EtcdError(Failure):
    """etcd refused a request, or its answer cannot be parsed. ``where`` is the endpoint.

    ``code`` is the gRPC status code (https://grpc.github.io/grpc/core/md_doc_statuscodes.html), 0 if there was none.
    """

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None, code: int = 0) -> None:
        super().__init__(message, where=where, hint=hint)
        self.code = code


class Unavailable(EtcdError):  # noqa: N818 - named for what a caller does about it
    """No endpoint gave an answer: try again later, from the same revision in case of a watch.

    ``maybe_applied`` is true if a write was sent and its answer was lost: read before writing again. ``reached`` is
    true if an etcd took the request at all: one without a leader, for instance, which may have one in a moment.
    """

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        code: int = 14,
        reached: bool = False,
        maybe_applied: bool = False,
    ) -> None:
        super().__init__(message, where=where, hint=hint, code=code)
        self.reached = reached or maybe_applied
        self.maybe_applied = maybe_applied


class Untrusted(Unavailable):
    """One side does not accept the other's certificate, or wants TLS where the other does not: a person has to look."""


class Compacted(EtcdError):  # noqa: N818 - named for what a caller does about it
    """etcd has discarded the history of the requested revision: read everything again.

    ``compact_revision`` is the oldest revision that still can be read, 0 if unknown.
    """

    def __init__(self, compact_revision: int, *, where: str | None = None) -> None:
        super().__init__("required revision has been compacted", where=where, code=11)
        self.compact_revision = compact_revision


class LeaseNotFound(EtcdError):  # noqa: N818 - named for what a caller does about it
    """The lease expired or was revoked: grant a new one."""

    def __init__(self, lease: int, *, where: str | None = None) -> None:
        super().__init__("requested lease not found", where=where, code=5)
        self.lease = lease


class NoSpace(EtcdError):  # noqa: N818 - named for what a caller does about it
    """etcd's database is as large as it may be (alarm NOSPACE): it reads and deletes, until a person has made room."""


class Corrupt(EtcdError):  # noqa: N818 - named for what a caller does about it
    """etcd's members have different data (alarm CORRUPT): a person has to look."""


class TooLarge(EtcdError):  # noqa: N818 - named for what a caller does about it
    """The request is larger than etcd accepts: send less at once."""


class Denied(EtcdError):  # noqa: N818 - named for what a caller does about it
    """This client may not do that, or etcd does not know it."""
