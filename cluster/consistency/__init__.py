"""Did a store keep its word while things broke? Histories of what clients saw, and a checker for them.

Four nouns: an :class:`Operation` is what one client asked, what it was told, and when; a :class:`Model` is the object that the clients
believe in (:class:`Register`, :class:`GrowSet`, :class:`Lock`); :func:`check` looks for one order of the operations that the model could have
gone through, each at one instant between its call and its return; a :class:`Violation` is the smallest part of the history for which there is none.

Pure but for :mod:`cluster.consistency.clients`, which has several clients at once work on etcd and writes down what they see.
"""

from __future__ import annotations

from cluster.consistency.history import Operation, by_key
from cluster.consistency.models import GrowSet, Lock, Model, Register
from cluster.consistency.search import TooManyOrders, Violation, check

__all__ = ["GrowSet", "Lock", "Model", "Operation", "Register", "TooManyOrders", "Violation", "by_key", "check"]
