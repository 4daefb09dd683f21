"""Who may do what: every request is denied unless its endpoint's role allows it.

While no token was ever made, the service trusts this machine only: the peer's address and the
``Host`` must be loopback, and a browser page of another origin is turned away, or any web page
could drive the service through its visitor's browser (also by DNS rebinding).
"""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Flask, current_app, g, request

from service.operations import tokens
from service.operations.errors import Forbidden, NotFound, Unauthorized
from service.operations.services import Caller, Services
from service.settings import is_loopback

OPEN = "open"  # the role of endpoints that answer without a token

PROBES = ("/healthz", "/readyz")

LOCAL = Caller(name="local", role="admin")


def caller() -> Caller:
    """Who sent the request that is being handled."""
    found: Caller = g.caller
    return found


def register(app: Flask) -> None:
    """Check every request of this application before anything of its body is read."""
    app.before_request(_check)


def _check() -> None:
    services: Services = current_app.extensions["holdout"]
    if request.routing_exception is not None:
        needed = OPEN
    else:
        view = current_app.view_functions[str(request.endpoint)]
        needed = getattr(view, "role", "")
    if needed == OPEN and request.path in PROBES:
        return  # they say what is missing, also when that is the database
    if needed == "metrics":
        needed = OPEN if services.settings.open_metrics else "viewer"
    if tokens.any_made(services.database):
        if needed == OPEN:
            return
        g.caller = _bearer(services)
    else:
        _check_local()
        g.caller = LOCAL
        if needed == OPEN:
            return
    if needed not in tokens.ROLES:
        raise NotFound("there is nothing at this address")
    if not tokens.allows(g.caller.role, needed):
        raise Forbidden(
            f"this needs the role {needed!r}; the token {g.caller.name!r} has {g.caller.role!r}"
        )


def _bearer(services: Services) -> Caller:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized("send a token: Authorization: Bearer TOKEN")
    return tokens.authenticate(services.database, token.strip())


def _check_local() -> None:
    peer = request.remote_addr or ""
    if peer and not is_loopback(peer):
        raise Forbidden(
            "this service has no tokens yet, so it answers its own machine only; make one with: "
            "holdout token create"
        )
    if not is_loopback(_hostname(f"//{request.host}")):
        raise Forbidden(
            f"without tokens the Host must be loopback, such as 127.0.0.1; got {request.host!r}"
        )
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"{request.scheme}://{request.host}":
        raise Forbidden("without tokens, pages of another origin may not use this service")


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
