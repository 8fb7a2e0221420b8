"""TLS of the customers' listener.

What belongs here: the context. What does not: listening (public.py).
"""

import ssl


def tls_context(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    """Return the context for a certificate and its key, PEM files; None: without a certificate there is no TLS."""
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context
