"""Packages from the mirror into the store: in parallel, checked against their lock, each stored complete or not at all.

The lock has size and sha256, so neither a mirror nor the network can bring in other bytes; a transfer is cut off at the
locked size.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from builder.core.store import Store
from builder.debian.downloads import FetchFailure, downloaded
from builder.debian.lockfile import LockedPackage
from builder.debian.mirror import Mirror
from terminal import Step, untimed

THREADS: Final = 8
ATTEMPTS: Final = 4
PAUSE: Final = 0.5
"""Seconds before the second attempt; doubled before each further one."""

_CHUNK: Final = 1 << 18
# Room for directories and for other writes of the machine meanwhile.
_MARGIN: Final = 64 << 20
_CONNECT_S, _READ_S = 15, 30
_REDIRECTS_MAX: Final = 5
_PASSING: Final = (408, 429, 500, 502, 503, 504)


class _Interrupted(Exception):  # noqa: N818 - another download failed or the user pressed Ctrl-C; never shown
    pass


class _Passing(Exception):  # noqa: N818 - worth another attempt
    pass


class _Gone(Exception):  # noqa: N818 - a snapshot may have it
    """The mirror has no such file. ``url`` was requested; the text is the answer."""

    def __init__(self, url: str, answer: str) -> None:
        super().__init__(answer)
        self.url = url

    def failure(self, package: LockedPackage, also: _Gone | None = None) -> FetchFailure:
        """The failure to report, if ``also`` (the mirror before the snapshot) does not have it either."""
        if also is None:
            hint = (
                "a mirror drops a version when a newer one comes: run 'osbuild lock' to take that, or name a mirror that "
                "keeps old ones with --snapshot URL or OSBUILD_SNAPSHOT, for what the first no longer has"
            )
            return FetchFailure(f"the mirror has no {_title(package)} ({self})", where=self.url, hint=hint)
        return FetchFailure(
            f"neither the mirror nor the snapshot has {_title(package)} ({also}; {self})",
            where=f"{also.url}, {self.url}",
            hint="run 'osbuild lock' to take the version that the mirror has; a snapshot must be of a day on which this one was there",
        )


@dataclass(frozen=True)
class Options:
    """How to download; the defaults are for real mirrors, tests need shorter times."""

    threads: int = THREADS
    attempts: int = ATTEMPTS
    pause: float = PAUSE


def fetch(
    packages: Iterable[LockedPackage],
    store: Store,
    mirror: Callable[[], Mirror],
    *,
    detail: Callable[[str], None] = lambda _: None,
    options: Options = Options(),
    step: Step = untimed,
) -> dict[str, Path]:
    """Bring all ``packages`` into ``store``; returns their files by package name.

    ``mirror`` is called only when something is missing, so that a full store needs none. ``detail`` receives the
    progress, from the calling thread only; ``step`` runs around each download, in its thread. Raises
    :class:`FetchFailure` (or :class:`builder.debian.mirror.MirrorFailure`); then, and on Ctrl-C, only complete packages
    stay in the store.
    """
    wanted = list(packages)
    missing = {package.sha256: package for package in wanted if downloaded(package, store) is None}
    if missing:
        _check_space(store.root, sum(package.size for package in missing.values()))
        with store.scratch() as work:
            _Batch(list(missing.values()), store, mirror(), work, options, step).run(detail)
    return {package.name: store.path("downloads", f"{package.sha256}.deb") for package in wanted}


class _Batch:
    """One run of downloads, all into ``work``, each renamed into the store when it is complete."""

    def __init__(
        self, packages: list[LockedPackage], store: Store, mirror: Mirror, work: Path, options: Options, step: Step
    ) -> None:
        self._packages = packages
        self._store = store
        self._mirror = mirror
        self._work = work
        self._options = options
        self._step = step
        self._stop = threading.Event()
        self._guard = threading.Lock()
        self._bytes = 0
        self._sessions: dict[str, requests.Session] = {}

    def run(self, detail: Callable[[str], None]) -> None:
        total = sum(package.size for package in self._packages)
        # The largest first: they determine when the last thread is done.
        queue = sorted(self._packages, key=lambda package: (-package.size, package.name))
        pool = ThreadPoolExecutor(self._options.threads, thread_name_prefix="fetch")
        try:
            futures: set[Future[None]] = {pool.submit(self._one, package) for package in queue}
            pending = futures
            while pending:
                done, pending = wait(pending, timeout=0.1, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                count = len(futures) - len(pending)
                detail(f"{count} of {len(futures)} packages, {self._bytes / 1e6:.0f} of {total / 1e6:.0f} MB")
        finally:
            self._stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            for session in self._sessions.values():
                session.close()

    def _one(self, package: LockedPackage) -> None:
        try:
            self._from(self._mirror, package)
        except _Gone as error:
            if self._mirror.snapshot is None:
                raise error.failure(package) from None
            try:
                self._from(self._mirror.snapshot, package)
            except _Gone as older:
                raise older.failure(package, also=error) from None

    def _from(self, mirror: Mirror, package: LockedPackage) -> None:
        url = mirror.url(package.archive, package.path)
        part = self._work / package.sha256
        for attempt in range(1, self._options.attempts + 1):
            try:
                with self._step("downloading", package.name):
                    self._transfer(package, url, part)
                part.replace(self._store.path("downloads", f"{package.sha256}.deb"))
                return
            except _Passing as error:
                self._count(-self._size(part))
                part.unlink(missing_ok=True)
                if attempt == self._options.attempts:
                    raise FetchFailure(
                        f"could not fetch {_title(package)} in {attempt} attempts: {error}",
                        where=url,
                        hint="is the network up? choose another mirror with --mirror URL or OSBUILD_MIRROR",
                    ) from None
                if self._stop.wait(self._options.pause * 2 ** (attempt - 1)):
                    raise _Interrupted from None
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise _no_space(self._store.root, sum(each.size for each in self._packages)) from error
                raise FetchFailure(f"could not store {_title(package)}: {error.strerror}", where=str(part)) from error

    def _transfer(self, package: LockedPackage, url: str, part: Path) -> None:
        digest, size = hashlib.sha256(), 0
        with part.open("wb") as file, self._opened(package, url) as chunks:
            for chunk in chunks:
                if self._stop.is_set():
                    raise _Interrupted
                size += len(chunk)
                if size > package.size:
                    raise _wrong(package, url, f"more than the {package.size} bytes that the lock says")
                digest.update(chunk)
                file.write(chunk)
                self._count(len(chunk))
        if size < package.size:
            raise _wrong(package, url, f"cut short, {size} of {package.size} bytes")
        if digest.hexdigest() != package.sha256:
            raise _wrong(package, url, f"sha256 {digest.hexdigest()}, the lock says {package.sha256}")

    @contextmanager
    def _opened(self, package: LockedPackage, url: str) -> Iterator[Iterator[bytes]]:
        parts = urlsplit(url)
        if parts.scheme == "file":
            try:
                with Path(unquote(parts.path)).open("rb") as file:
                    yield iter(lambda: file.read(_CHUNK), b"")
            except FileNotFoundError:
                raise _Gone(url, "no such file") from None
            return
        session = self._session(self._proxy(parts.scheme, parts.hostname or ""))
        # Attempts are ours to count, so that a transfer that breaks off is tried again like a connection that fails.
        try:
            with session.get(url, stream=True, timeout=(_CONNECT_S, _READ_S)) as response:
                answer = f"the mirror answers {response.status_code}"
                if response.status_code in _PASSING:
                    raise _Passing(answer)
                if response.status_code in (404, 410):
                    raise _Gone(url, answer)
                if response.status_code != 200:
                    raise FetchFailure(
                        f"the mirror refuses {_title(package)}: it answers {response.status_code}",
                        where=url,
                        hint="choose another mirror with --mirror URL or OSBUILD_MIRROR",
                    )
                yield response.raw.stream(_CHUNK, decode_content=False)
        except (requests.RequestException, HTTPError) as error:
            raise _Passing(_reason(error)) from error

    def _session(self, proxy: str) -> requests.Session:
        """Kept connections by way of ``proxy``, for all threads."""
        with self._guard:
            if proxy not in self._sessions:
                session = requests.Session()
                session.trust_env = False  # which proxy, apt's options decide, too: _proxy
                session.proxies = {"http": proxy, "https": proxy} if proxy else {}
                trusted = ssl.get_default_verify_paths()  # the host's authorities: a mirror may have one of its own
                session.verify = trusted.cafile or trusted.capath or True
                session.max_redirects = _REDIRECTS_MAX
                session.headers.update({"Accept-Encoding": "identity", "User-Agent": "osbuild"})
                for scheme in ("http://", "https://"):
                    session.mount(scheme, HTTPAdapter(pool_maxsize=self._options.threads))
                self._sessions[proxy] = session
            return self._sessions[proxy]

    def _proxy(self, scheme: str, host: str) -> str:
        own = self._mirror.apt_options.get(f"Acquire::{scheme}::Proxy", "")
        if own:
            return "" if own == "DIRECT" else own
        if urllib.request.proxy_bypass(host):
            return ""
        proxies: Mapping[str, str] = urllib.request.getproxies()
        return proxies.get(scheme, "")

    def _count(self, size: int) -> None:
        with self._guard:
            self._bytes += size

    @staticmethod
    def _size(path: Path) -> int:
        return path.stat().st_size if path.exists() else 0


def _reason(error: BaseException) -> str:
    """What went wrong at the bottom: each layer repeats the address, and what the one below says."""
    bottom = error
    while (
        below := getattr(bottom, "reason", None) or bottom.__cause__ or bottom.__context__
    ) is not None and isinstance(below, BaseException):
        bottom = below
    return str(bottom)


def _title(package: LockedPackage) -> str:
    return f"{package.name} {package.version}"


def _wrong(package: LockedPackage, url: str, what: str) -> FetchFailure:
    return FetchFailure(
        f"{_title(package)} is not the package that was locked: {what}",
        where=url,
        hint="nothing of it was kept; try another mirror with --mirror URL. If the archive itself changed, run "
        "'osbuild lock' and read its output",
    )


def _check_space(root: Path, needed: int) -> None:
    if shutil.disk_usage(root).free < needed + _MARGIN:
        raise _no_space(root, needed)


def _no_space(root: Path, needed: int) -> FetchFailure:
    free = shutil.disk_usage(root).free
    return FetchFailure(
        f"not enough space for the packages: {free / 1e6:.0f} MB free, {(needed + _MARGIN) / 1e6:.0f} MB needed",
        where=str(root),
        hint="free some space, or choose another disk with --store DIR",
    )
