"""The bundle of trusted certificates.

Replaces the work of: ca-certificates (update-ca-certificates).
"""

from __future__ import annotations

from builder.core.tree import Kind, Patch, Tree, directory, file, symlink
from terminal import Failure

SOURCES = ("usr/share/ca-certificates", "usr/local/share/ca-certificates")


def certificates(tree: Tree) -> Patch:
    """The bundle of all ``.crt`` files of the tree, links to them, and their list.

    /etc/ssl/certs/ca-certificates.crt has them sorted by path, with one link for each beside it; the list is
    /etc/ca-certificates.conf.

    The links named after a hash of the subject are left out: OpenSSL reads the bundle first (Debian's
    /usr/lib/ssl/cert.pem leads to it), Go, curl and Python read only the bundle, and the hash needs an ASN.1
    canonicaliser. Raises :class:`Failure` if the tree has no certificate, or one that is not PEM.
    """
    found = [
        entry
        for source in SOURCES
        for entry in tree.below(source)
        if entry.kind is Kind.FILE and entry.path.endswith(".crt")
    ]
    if not found:
        raise Failure(
            "no trusted certificate in the tree", where="/" + SOURCES[0], hint="add the package ca-certificates"
        )
    bundle: list[bytes] = []
    links = []
    for entry in sorted(found, key=lambda each: each.path):
        data = entry.content.read()
        if not data.lstrip().startswith(b"-----BEGIN CERTIFICATE-----"):
            raise Failure("a certificate that is not PEM", where="/" + entry.path)
        bundle.append(data if data.endswith(b"\n") else data + b"\n")
        name = entry.path.rpartition("/")[2].removesuffix(".crt").replace(" ", "_")
        links.append(symlink(f"etc/ssl/certs/{name}.pem", "/" + entry.path))
    names = [entry.path.removeprefix(SOURCES[0] + "/") for entry in found if entry.path.startswith(SOURCES[0] + "/")]
    return Patch(
        (
            directory("etc/ssl/certs"),
            *links,
            file("etc/ssl/certs/ca-certificates.crt", b"".join(bundle)),
            file("etc/ca-certificates.conf", "".join(name + "\n" for name in sorted(names))),
        )
    )
