"""Was a store consistent while things broke? Histories of what clients saw, and a checker for them.

An :class:`Operation` is one client's request, the response, and when. A :class:`Model` is the object that the clients
expect (:class:`Register`, :class:`GrowSet`, :class:`Lock`). :func:`check` looks for one order of the operations that
the model could have gone through, each at one instant between its call and its return. A :class:`Violation` is the
smallest part of the history for which there is none.

All of it is pure except :mod:`cluster.consistency.clients`, which runs several clients on etcd at once and records what
they see.
"""

from __future__ import annotations

from cluster.consistency.history import Operation, by_key
from cluster.consistency.models import GrowSet, Lock, Model, Register
from cluster.consistency.search import TooManyOrders, Violation, check

__all__ = ["GrowSet", "Lock", "Model", "Operation", "Register", "TooManyOrders", "Violation", "by_key", "check"]
