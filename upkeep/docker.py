"""Docker as the room's keeper sees it: its API over its socket.

Source: the Engine API of docker, version 1.44 (api/swagger.yaml in moby)."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from terminal import Failure, record
from upkeep.space import KEEP, Container, Holdings, Image
from webserver.unix import UnixConnection

SOCKET: Final = "/run/docker.sock"
ANSWER_BYTES_MAX: Final = 64 << 20
TIMEOUT_S: Final = 120.0
"""For one answer; to delete a large image is slow on an emulated node."""
_BASE: Final = "/v1.44"
_NO_TAG: Final = "<none>:<none>"
_GONE, _IN_USE = 404, 409


class Docker:
    """Raises :class:`Failure` for all errors. Nothing is ever removed by force."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path

    def holdings(self) -> Holdings:
        """All containers, running or not, and all images that have a name or had one."""
        containers = [self._container(each) for each in self._list("/containers/json?all=true")]
        images = [self._image(each) for each in self._list("/images/json")]
        return Holdings(containers, images)

    def remove(self, what: Container | Image) -> bool:
        """Whether we removed it.

        Not if another process was faster, or it is in use again. A container's volumes stay."""
        if isinstance(what, Container):
            return self._delete(f"/containers/{quote(what.id, safe='')}")
        # Name by name: docker accepts the id only of an image with one name, unless forced.
        answers = [self._delete(f"/images/{quote(name, safe='')}") for name in what.tags or (what.id,)]
        return all(answers)

    def _delete(self, target: str) -> bool:
        status, answer = self._ask("DELETE", target)
        if status in (_GONE, _IN_USE):
            return False
        if status >= http.client.BAD_REQUEST:
            raise self._refused(target, status, answer)
        return True

    def _list(self, target: str) -> list[Mapping[str, object]]:
        status, answer = self._ask("GET", target)
        if status != http.client.OK:
            raise self._refused(target, status, answer)
        try:
            found = record.parse(answer)
        except ValueError:
            raise self._nonsense() from None
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise self._nonsense()
        return found

    def _ask(self, method: str, target: str) -> tuple[int, bytes]:
        connection = UnixConnection(self._path, host="docker", timeout_s=TIMEOUT_S)
        try:
            connection.request(method, _BASE + target)
            response = connection.getresponse()
            answer = response.read(ANSWER_BYTES_MAX + 1)
        except (OSError, http.client.HTTPException) as error:
            raise Failure(
                "docker does not answer", where=self._path, hint="see: systemctl status docker, journalctl -u docker"
            ) from error
        finally:
            connection.close()
        if len(answer) > ANSWER_BYTES_MAX:
            raise self._nonsense()
        return response.status, answer

    def _container(self, fields: Mapping[str, object]) -> Container:
        names = self._texts(fields, "Names")
        return Container(
            self._text(fields, "Id"),
            names[0].removeprefix("/") if names else "",
            self._text(fields, "ImageID"),
            self._text(fields, "State"),
            self._number(fields, "Created"),
            self._is_kept(fields),
        )

    def _image(self, fields: Mapping[str, object]) -> Image:
        tags = tuple(tag for tag in self._texts(fields, "RepoTags") if tag != _NO_TAG)
        return Image(self._text(fields, "Id"), tags, self._number(fields, "Created"), self._is_kept(fields))

    def _is_kept(self, fields: Mapping[str, object]) -> bool:
        labels = fields.get("Labels") or {}
        if not isinstance(labels, dict):
            raise self._nonsense()
        return KEEP in labels

    def _text(self, fields: Mapping[str, object], name: str) -> str:
        found = fields.get(name)
        if not isinstance(found, str) or not found:
            raise self._nonsense()
        return found

    def _texts(self, fields: Mapping[str, object], name: str) -> list[str]:
        found = fields.get(name) or []
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            raise self._nonsense()
        return found

    def _number(self, fields: Mapping[str, object], name: str) -> int:
        found = fields.get(name)
        if not isinstance(found, int):
            raise self._nonsense()
        return found

    def _nonsense(self) -> Failure:
        return Failure("docker's answer cannot be understood", where=self._path, hint="is it docker 25 or newer?")

    def _refused(self, target: str, status: int, answer: bytes) -> Failure:
        try:
            words = str(record.parse(answer)["message"])
        except (ValueError, LookupError, TypeError):
            words = f"HTTP status {status}"
        return Failure(f"docker refused: {words}", where=target, hint="see: journalctl -u docker")
