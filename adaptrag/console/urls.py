"""Pages for people: chat, sources, sign-in, and the admin pages that belong to no single model."""

from django.contrib import admin
from django.contrib.auth import views as auth_views
from django.urls import path
from django.views.generic import RedirectView

from adaptrag.console import improving, leaderboard, views
from evals.admin.judges import judges_page

urlpatterns = [
    path("", views.chat, name="chat"),
    path("c/<uuid:conversation>/", views.chat, name="conversation"),
    path("answers/<uuid:interaction_id>/", views.answer, name="answer"),
    path("answers/<uuid:interaction_id>/rating/", views.rate, name="rate"),
    path("sources/<int:chunk_id>/", views.source, name="source"),
    path("sources/images/<int:image_id>/", views.source_image, name="source_image"),
    path("login/", views.login, name="login"),
    # One login page for everybody; it says so to those who are signed in and may not enter the admin.
    path("admin/login/", RedirectView.as_view(pattern_name="login", query_string=True)),
    path("logout/", auth_views.LogoutView.as_view(), name="logout"),
    path("admin/leaderboard/", admin.site.admin_view(leaderboard.leaderboard_page), name="admin_leaderboard"),
    path("admin/leaderboard/reset/", admin.site.admin_view(leaderboard.reset_page), name="admin_learning_reset"),
    path("admin/judges/", admin.site.admin_view(judges_page), name="admin_judges"),
    path("admin/improve/", admin.site.admin_view(improving.improvement_page), name="admin_improve"),
    path("admin/improve/act/", admin.site.admin_view(improving.act_page), name="admin_improve_act"),
    path("admin/live-jobs/", admin.site.admin_view(views.live_jobs_fragment), name="admin_live_jobs"),
]
