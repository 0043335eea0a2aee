"""Who calls: a key in the Authorization header, or a signed-in user's session."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hmac import compare_digest
from typing import Any

from django.conf import settings
from django.contrib.auth.backends import ModelBackend
from django.core.exceptions import PermissionDenied
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from knox.crypto import hash_token
from knox.settings import CONSTANTS
from rest_framework import authentication, exceptions
from rest_framework.request import Request

from adaptrag.api.models import ApiKey
from adaptrag.api.rates import spend, spent
from adaptrag.common.errors import InvalidInput
from adaptrag.common.prepared import Prepared
from agents.errors import UnknownCollection
from agents.models import Collection


@dataclass(frozen=True)
class Caller:
    """A key or a signed-in user, and what it may do."""

    user: Any
    key: ApiKey | None = None

    @property
    def operator(self) -> bool:
        """A key's scope decides, but never lifts its user above what the account may do."""
        return self.user.is_staff and (self.key is None or self.key.scope == ApiKey.Scope.OPERATOR)

    @cached_property
    def collections(self) -> frozenset[str] | None:
        """Names of the collections that the caller may see; None: all of them."""
        if self.key is None or not self.key.restricted:
            return None
        return frozenset(self.key.collections.values_list("name", flat=True))

    def sees(self, collection: Collection | None) -> bool:
        return self.collections is None or (collection is not None and collection.name in self.collections)

    def collection_name(self, asked: str | None) -> str | None:
        """The collection that a request means; None: the default one. A key that sees just one need not name it.

        Raises UnknownCollection in the same words for what the key may not see and what there is not, so that nothing can be
        told from them, and InvalidInput where the key sees several and none is named."""
        if self.collections is None:
            return asked
        if asked is None and settings.ADAPTRAG_DEFAULT_COLLECTION in self.collections:
            asked = settings.ADAPTRAG_DEFAULT_COLLECTION
        elif asked is None and len(self.collections) == 1:
            (asked,) = self.collections
        elif asked is None and self.collections:
            raise InvalidInput(f"Name a collection: this key sees {', '.join(sorted(self.collections))}.", field="collection")
        if asked not in self.collections:
            raise UnknownCollection(f"There is no collection {asked!r} that this key may use.", collection=asked)
        return asked

    @property
    def rater(self) -> str:
        """Names the source of a rating where the request names none."""
        return f"key:{self.key.token_key}" if self.key else f"user:{self.user.get_username()}"


def caller(request: Request) -> Caller:
    """The caller of an authenticated request."""
    found = getattr(request, "_caller", None)
    if found is None:
        key = request.auth if isinstance(request.auth, ApiKey) else None
        found = request._caller = Caller(request.user, key)
    return found


# What no request needs of an account stays in the database.
_UNREAD = (
    "created",
    *(f"user__{name}" for name in ("password", "first_name", "last_name", "email", "last_login", "date_joined")),
)
_keys = Prepared(lambda prefix: ApiKey.objects.filter(token_key=prefix).select_related("user").defer(*_UNREAD))


class KeyAuthentication(authentication.BaseAuthentication):
    """`Authorization: Bearer <key>`: one query by the key's first characters, then a comparison of digests in constant time.

    Unlike knox's own class it leaves expired keys in the table, where the operator sees that and when they expired.
    """

    def authenticate(self, request: Request) -> tuple[Any, ApiKey] | None:
        parts = authentication.get_authorization_header(request).split()
        if not parts or parts[0].lower() != b"bearer":
            return None
        key = self._key(parts)
        if isinstance(key, ApiKey):
            return key.user, key
        if (wait := spend("failed_login", request.META.get("REMOTE_ADDR", ""))) is not None:
            raise exceptions.Throttled(wait)
        raise exceptions.AuthenticationFailed(key)

    def _key(self, parts: list[bytes]) -> ApiKey | str:
        """The key that may be used, or what is wrong with it."""
        if len(parts) != 2:
            return "The Authorization header must read 'Bearer <key>'."
        try:
            text = parts[1].decode("ascii")
        except UnicodeDecodeError:
            return "The key holds characters that no key has."
        digest = hash_token(text)
        for key in _keys(text[: CONSTANTS.TOKEN_KEY_LENGTH]):
            if compare_digest(digest, key.digest):
                if key.expired:
                    return f"The key expired at {key.expiry.isoformat(timespec='seconds')}."
                return key if key.user.is_active else "The account of this key is switched off."
        return "This key is unknown or was revoked."

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class PasswordBackend(ModelBackend):
    """Django's, with an end to guessing: an address with too many wrong passwords or keys is refused for a while."""

    def authenticate(self, request: Any, username: str | None = None, password: str | None = None, **others: Any) -> Any:
        address = request.META.get("REMOTE_ADDR", "") if request is not None else ""
        if address and spent("failed_login", address):
            raise PermissionDenied("Too many wrong passwords from this address. Wait a minute.")
        user = super().authenticate(request, username=username, password=password, **others)
        if user is None and address:
            spend("failed_login", address)
        return user


class SessionAuthentication(authentication.SessionAuthentication):
    """The chat page's own requests: Django's session, with its CSRF check."""

    def authenticate(self, request: Request) -> tuple[Any, None] | None:
        # Without a session's cookie there is nobody to look up.
        return super().authenticate(request) if settings.SESSION_COOKIE_NAME in request.COOKIES else None


class KeyScheme(OpenApiAuthenticationExtension):
    target_class = "adaptrag.api.authentication.KeyAuthentication"
    name = "key"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "A key from the admin or from `manage.py api_key create`."}


class SessionScheme(OpenApiAuthenticationExtension):
    target_class = "adaptrag.api.authentication.SessionAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {
            "type": "apiKey",
            "in": "cookie",
            "name": settings.SESSION_COOKIE_NAME,
            "description": "A signed-in user; requests that change something also send X-CSRFToken.",
        }
