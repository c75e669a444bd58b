"""Whether a password matches a hash of shadow(5).

Uses crypt(3) of the C library, for which Python 3.13 has no module."""

from __future__ import annotations


def same(plain: str, hashed: str) -> bool:
    """Whether ``hashed`` is made of ``plain``.

    False, too, where there is no libcrypt or it does not know the kind of hash."""
    import ctypes

    try:
        library = ctypes.CDLL("libcrypt.so.1")
        library.crypt.restype = ctypes.c_char_p
        made = library.crypt(plain.encode(), hashed.encode())
    except (OSError, AttributeError, UnicodeEncodeError, ValueError):
        return False
    return bool(made) and not made.startswith(b"*") and bool(made == hashed.encode())
