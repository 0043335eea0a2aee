"""Pages for people: chat, sources, sign-in, and the admin pages that belong to no single model."""

from django.contrib.auth import views as auth_views
from django.urls import path

from adaptrag.console import views

urlpatterns = [
    path("", views.chat, name="chat"),
    path("c/<uuid:conversation>/", views.chat, name="conversation"),
    path("answers/<uuid:interaction_id>/", views.answer, name="answer"),
    path("answers/<uuid:interaction_id>/rating/", views.rate, name="rate"),
    path("sources/<int:chunk_id>/", views.source, name="source"),
    path("login/", views.login, name="login"),
    path("logout/", auth_views.LogoutView.as_view(), name="logout"),
]
