"""Accounts in the admin's own style; rows of the queue and of knox that the admin's own pages stand for stay out."""

from __future__ import annotations

from contextlib import suppress

from django.contrib import admin
from django.contrib.admin.exceptions import NotRegistered
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django_q.models import Failure, OrmQ, Schedule, Success
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

# Jobs are the queue's face: their rows carry the state, and django-q's tables hold no more than ids.
for model in (Failure, OrmQ, Schedule, Success, User, Group):
    with suppress(NotRegistered):
        admin.site.unregister(model)


@admin.register(User)
class AccountAdmin(UserAdmin, ModelAdmin):
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "email", "is_active", "is_staff", "is_superuser", "last_login")
    list_filter = ("is_active", "is_staff", "is_superuser", "groups")


@admin.register(Group)
class RoleAdmin(GroupAdmin, ModelAdmin):
    pass
