"""Every change to API keys, one function each."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.db import transaction

from adaptrag.api.models import ApiKey
from adaptrag.common.errors import InvalidInput
from agents.models import Collection


@transaction.atomic
def key_create(
    *, user: Any, name: str, scope: str, collections: Iterable[Collection] = (), expires_in: timedelta | None = None
) -> tuple[ApiKey, str]:
    """A new key of `user` and its text, which is shown now and never again. No `collections`: it sees all of them.

    Raises InvalidInput for an unknown scope, the operator scope without a staff account, a name over 100 characters, or a life
    time that is not positive.
    """
    if scope not in ApiKey.Scope.values:
        raise InvalidInput(f"Unknown scope {scope!r}; there are {', '.join(ApiKey.Scope.values)}.", field="scope")
    if len(name) > 100:
        raise InvalidInput(f"The key's name has {len(name)} characters; at most 100 are kept.", field="name")
    if expires_in is not None and expires_in <= timedelta(0):
        raise InvalidInput("A key must expire in the future.", field="expires_in")
    if scope == ApiKey.Scope.OPERATOR and not user.is_staff:
        raise InvalidInput(
            f"{user.get_username()!r} is no staff account, so its keys can't have the operator scope. Make it staff "
            "first, or take the query scope.",
            field="scope",
        )
    if not user.is_active:
        raise InvalidInput(f"The account {user.get_username()!r} is switched off; its keys would not work.", field="user")
    key, text = ApiKey.objects.create(user=user, expiry=expires_in, name=name, scope=scope)
    if collections := list(collections):
        key.collections.add(*collections)
    return key, text


def key_revoke(key: ApiKey) -> None:
    """The key stops working with the next request."""
    key.delete()
