"""How often one may call: per key, per user over all keys, and per address for those without a key."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from adaptrag.api.authentication import caller
from adaptrag.api.rates import spend


class _Throttle(BaseThrottle):
    scope = ""

    def ident(self, request: Request) -> str | None:
        raise NotImplementedError

    def allow_request(self, request: Request, view: Any) -> bool:
        ident = self.ident(request)
        self.waiting = None if ident is None else spend(self.scope, ident)
        return self.waiting is None

    def wait(self) -> float | None:
        return self.waiting


class KeyThrottle(_Throttle):
    scope = "key"

    def ident(self, request: Request) -> str | None:
        key = caller(request).key
        return key and key.digest[:32]


class UserThrottle(_Throttle):
    scope = "user"

    def ident(self, request: Request) -> str | None:
        return str(request.user.pk) if request.user and request.user.is_authenticated else None


class AnonymousThrottle(_Throttle):
    """By the peer's address; behind a proxy that is what `uvicorn --proxy-headers` makes of it."""

    scope = "anonymous"

    def ident(self, request: Request) -> str | None:
        return None if request.user and request.user.is_authenticated else request.META.get("REMOTE_ADDR", "")
