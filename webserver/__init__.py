"""The one HTTP/1.1 server of Flotilla: what listens for requests of any room is a :class:`webserver.server.Server`.

A room brings a :class:`webserver.server.Site`: its bounds, and a function from a :class:`webserver.message.Request` to a
:class:`webserver.message.Response`. Whatever clients may do to a socket is dealt with here, once. Runs on nodes: standard library only.
"""
