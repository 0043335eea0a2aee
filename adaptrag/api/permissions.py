"""What a caller may do: `query` asks and rates, `operator` does everything."""

from __future__ import annotations

from typing import Any

from rest_framework import exceptions, permissions
from rest_framework.request import Request

from adaptrag.api.authentication import caller


class HasScope(permissions.BasePermission):
    """Reads the view's `operator_methods`, and `site_wide` for what no key that is limited to collections may touch."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if not request.user or not request.user.is_authenticated:
            return False
        who = caller(request)
        if request.method in getattr(view, "operator_methods", ()) and not who.operator:
            raise exceptions.PermissionDenied(
                "This needs the operator scope: a key made with it for a staff account, or a signed-in staff user."
            )
        if getattr(view, "site_wide", False) and who.collections is not None:
            raise exceptions.PermissionDenied("This covers every collection, and this key is limited to some.")
        return True
