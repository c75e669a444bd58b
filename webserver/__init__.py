"""The HTTP/1.1 server of Flotilla: every package listens for requests with a :class:`webserver.server.Server`.

A package provides a :class:`webserver.server.Site`: its bounds, and a function from a
:class:`webserver.message.Request` to a :class:`webserver.message.Response`. All misbehaviour of clients on a socket is
handled here; :mod:`webserver.unix` is a client's side. Runs on nodes: standard library only.
"""
