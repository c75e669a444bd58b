"""A node gets its certificates itself, and keeps them: from an issuer (``trust serve``) that its user-data names.

The node makes its keys, which never leave it, and asks over a connection that is pinned to the issuer's authority. A
key of its own (*machine key*) signs what it asks for: by it the issuer knows the node again when all certificates have
expired. The command is ``flotilla-trust``. Runs on nodes: the standard library and ``openssl``, no ``cryptography``.

    files      what a node's certificates are called, and whose they are
    protocol   requests and answers as values; the issuer reads them, too
    keys       keys and requests for certificates, by openssl
    target     which issuer: what user-data says of it
    client     the pinned connection
    place      the folder on the node: a whole new set of files, or the old one
    node       enrol, renew, lists of revoked certificates: each a step that happens or not
    keeper     when to do which, for as long as the node runs
"""
