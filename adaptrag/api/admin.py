"""API keys: made here, shown once, revoked here. A key's digest appears on no page and in no address."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.views import ChangeList
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from adaptrag.api.models import ApiKey
from adaptrag.api.services import key_create, key_revoke
from adaptrag.common import confirmation
from adaptrag.common.confirmation import Question
from adaptrag.common.errors import AdaptRAGError
from agents.models import Collection

LIFETIMES = [("30", "30 days"), ("90", "90 days"), ("365", "a year"), ("", "never")]
FORM_ONCE = "api_key_form"  # in the session: the form that may make a key, so that sending it again makes no second one


class KeyForm(forms.Form):
    name = forms.CharField(
        max_length=100,
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "support-bot, nightly import"}),
        help_text="What uses it, so that you know which one to revoke.",
    )
    user = forms.ModelChoiceField(
        queryset=get_user_model().objects.filter(is_active=True),
        widget=UnfoldAdminSelectWidget,
        help_text="On whose behalf it asks. An operator's key works only for staff.",
    )
    scope = forms.ChoiceField(choices=ApiKey.Scope.choices, widget=UnfoldAdminSelectWidget(choices=ApiKey.Scope.choices))
    collections = forms.ModelMultipleChoiceField(
        queryset=Collection.objects.all(),
        required=False,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="None chosen: it sees every collection.",
    )
    lifetime = forms.ChoiceField(
        label="Expires after",
        choices=LIFETIMES,
        required=False,
        initial="90",
        widget=UnfoldAdminSelectWidget(choices=LIFETIMES),
    )

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        user = cleaned.get("user")
        if user and cleaned.get("scope") == ApiKey.Scope.OPERATOR and not user.is_staff:
            self.add_error(
                "scope", f"{user} is no staff, so an operator's key would not work. Choose a staff account or 'query'."
            )
        return cleaned


class KeyChangeList(ChangeList):
    """Addresses a key by its first characters, which the list shows anyway."""

    def url_for_result(self, result: ApiKey) -> str:
        return reverse("admin:api_apikey_change", args=[result.token_key])


@admin.register(ApiKey)
class ApiKeyAdmin(ModelAdmin):
    list_display = ("label", "begins", "user", "scope_label", "sees", "created", "state_label")
    list_display_links = ("label",)
    list_filter = ("scope", "restricted")
    list_select_related = ("user",)
    search_fields = ("name", "token_key", "user__username")
    actions = None  # a bulk action would put the digests, which are the rows' keys, into the page
    actions_detail = ("revoke",)
    empty_hint = "Programs that ask and give feedback need a key; people use the chat page with their account."

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).prefetch_related("collections")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return KeyChangeList

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> ApiKey | None:
        return self.get_queryset(request).filter(token_key=object_id).first()

    def has_change_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        return False  # "Revoke" does it; Django's own page would carry the digest

    def has_revoke_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("api.delete_apikey")

    @display(description="Name", ordering="name")
    def label(self, key: ApiKey) -> str:
        return key.name or "unnamed"

    @display(description="Begins with")
    def begins(self, key: ApiKey) -> str:
        return format_html("<code>{}…</code>", key.token_key)

    @display(description="Scope", ordering="scope", label={"operator": "warning", "query": "info"})
    def scope_label(self, key: ApiKey) -> str:
        return key.scope

    @display(description="Collections")
    def sees(self, key: ApiKey) -> str:
        if not key.restricted:
            return "all"
        return ", ".join(one.name for one in key.collections.all()) or "none (its collections were deleted)"

    @display(description="State", label={"valid": "success", "expired": "danger", "account off": "danger"})
    def state_label(self, key: ApiKey) -> tuple[str, str]:
        if key.expired:
            return "expired", f"expired {key.expiry:%d %b %Y}"
        if not key.user.is_active:
            return "account off", "account off"
        return "valid", f"valid to {key.expiry:%d %b %Y}" if key.expiry else "valid"

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """A page of its own: Django's and the theme's put the row's key, the digest, into links."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        key = self._key(request, object_id)
        context = {
            **self.admin_site.each_context(request),
            "title": f"API key {key}",
            "key": key,
            "sees": self.sees(key),
            "state": self.state_label(key)[1],
            "may_revoke": self.has_revoke_permission(request),
        }
        return TemplateResponse(request, "admin/api/apikey/page.html", context)

    def history_view(self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return redirect("admin:api_apikey_change", self._key(request, object_id).token_key)

    def _key(self, request: HttpRequest, object_id: str) -> ApiKey:
        key = self.get_object(request, object_id)
        if key is None:
            raise Http404
        return key

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return never_cache(self._add)(request)

    @sensitive_variables("text")
    def _add(self, request: HttpRequest) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = KeyForm(request.POST or None, initial={"user": request.user.pk})
        context = {**self.admin_site.each_context(request), "title": "Create an API key", "form": form}
        if request.method == "POST" and form.is_valid():
            if request.POST.get("once") != request.session.pop(FORM_ONCE, None):
                messages.warning(request, "That form was sent already; the key that it made is not shown again.")
                return redirect("admin:api_apikey_changelist")
            values = form.cleaned_data
            days = values["lifetime"]
            try:
                key, text = key_create(
                    user=values["user"],
                    name=values["name"],
                    scope=values["scope"],
                    collections=values["collections"],
                    expires_in=timedelta(days=int(days)) if days else None,
                )
            except AdaptRAGError as error:
                form.add_error(error.details.get("field") if error.details.get("field") in form.fields else None, error.message)
            else:
                self._log(request, key, f"Created with the scope {key.scope}.")
                created = {
                    "title": "The key",
                    "key": key,
                    "text": text,
                    "address": request.build_absolute_uri(reverse("api:query")),
                }
                return TemplateResponse(request, "admin/api/apikey/created.html", {**context, **created})
        request.session[FORM_ONCE] = secrets.token_urlsafe(16)
        context["once"] = request.session[FORM_ONCE]
        return TemplateResponse(request, "admin/api/apikey/add.html", context)

    @action(description="Revoke", icon="block", url_path="revoke", permissions=["revoke"])
    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = self._key(request, object_id)
        question = Question(
            title=f"Revoke the key {key}?",
            effects=[
                f"What uses it ({key.token_key}…) is refused from its next request on.",
                "This can't be undone; a new key has another text. Answers and ratings that came with it stay.",
            ],
            button="Revoke",
        )
        back = reverse("admin:api_apikey_change", args=[key.token_key])
        if page := confirmation.ask(request, question, back=back, admin=self):
            return page
        self._log(request, key, "Revoked.")
        name = str(key)
        key_revoke(key)
        messages.success(request, f"The key {name} is revoked.")
        return redirect("admin:api_apikey_changelist")

    def _log(self, request: HttpRequest, key: ApiKey, message: str) -> None:
        """A log entry that names the key by its first characters: the row's own key is the digest."""
        shown = ApiKey(digest=key.token_key, token_key=key.token_key, name=key.name)
        (self.log_addition if message.startswith("Created") else self.log_change)(request, shown, message)
