"""`api_key create|list|revoke`: keys of the API from the command line."""

from __future__ import annotations

import argparse
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import CommandParser

from adaptrag.api.models import ApiKey
from adaptrag.api.services import key_create, key_revoke
from adaptrag.common.commands import ContractCommand
from adaptrag.common.errors import NotFound
from agents.errors import UnknownCollection
from agents.models import Collection


class Command(ContractCommand):
    help = "Make, list and revoke API keys. A key is printed once, when it is made."

    def arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="create|list|revoke")
        create = actions.add_parser("create", help="make a key for a user")
        create.add_argument("user", help="name of the account")
        create.add_argument("--name", default="", help="what the key is for")
        create.add_argument("--scope", choices=ApiKey.Scope.values, default=ApiKey.Scope.QUERY)
        create.add_argument("--collection", action="append", default=[], help="limit it to this collection (may be repeated)")
        create.add_argument("--days", type=float, help="days until it expires (never)")
        listing = actions.add_parser("list", help="all keys, without their texts")
        listing.add_argument("--user", help="of this account only")
        revoke = actions.add_parser("revoke", help="make a key stop working")
        revoke.add_argument("key", help="its first characters, as `list` shows them, or its name")
        for sub in (create, listing, revoke):
            sub.add_argument(
                "--json",
                action="store_true",
                default=argparse.SUPPRESS,
                help="print one JSON object and nothing else on stdout",
            )

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        return getattr(self, f"_{options['action']}")(options)

    def show(self, result: dict[str, Any]) -> None:
        if "keys" in result:
            for key in result["keys"]:
                limits = f" limited to {', '.join(key['collections']) or 'nothing'}" if key["restricted"] else ""
                ends = f" until {key['expires']}" if key["expires"] else ""
                self.stdout.write(f"{key['prefix']}  {key['scope']:8} {key['user']}  {key['name']}{limits}{ends}")
        elif "key" in result:
            self.stderr.write("Note this key; it is not shown again:")
            self.stdout.write(result["key"])
        else:
            self.stdout.write(f"Revoked {result['revoked']}.")

    def _create(self, options: dict[str, Any]) -> dict[str, Any]:
        user = get_user_model().objects.filter(username=options["user"]).first()
        if user is None:
            raise NotFound(
                f"There is no account {options['user']!r}. Make it in the admin or with `manage.py createsuperuser`."
            )
        collections = [_collection(name) for name in options["collection"]]
        expires_in = timedelta(days=options["days"]) if options["days"] is not None else None
        key, text = key_create(
            user=user, name=options["name"], scope=options["scope"], collections=collections, expires_in=expires_in
        )
        return {**_described(key), "key": text}

    def _list(self, options: dict[str, Any]) -> dict[str, Any]:
        keys = ApiKey.objects.select_related("user").prefetch_related("collections")
        if options["user"]:
            keys = keys.filter(user__username=options["user"])
        return {"keys": [_described(key) for key in keys]}

    def _revoke(self, options: dict[str, Any]) -> dict[str, Any]:
        wanted = options["key"]
        found = list(ApiKey.objects.filter(token_key__startswith=wanted)) if len(wanted) >= 6 else []
        found = found or list(ApiKey.objects.filter(name=wanted).exclude(name=""))
        if len(found) != 1:
            raise NotFound(
                f"{len(found)} keys match {wanted!r}; `manage.py api_key list` shows the characters that tell them apart."
            )
        described = _described(found[0])
        key_revoke(found[0])
        return {"revoked": described["prefix"], "name": described["name"]}


def _collection(name: str) -> Collection:
    if (collection := Collection.objects.filter(name=name).first()) is None:
        raise UnknownCollection(f"There is no collection {name!r}.")
    return collection


def _described(key: ApiKey) -> dict[str, Any]:
    return {
        "prefix": key.token_key,
        "user": key.user.get_username(),
        "name": key.name,
        "scope": key.scope,
        "restricted": key.restricted,
        "collections": [collection.name for collection in key.collections.all()],
        "expires": key.expiry and key.expiry.isoformat(timespec="seconds"),
    }
