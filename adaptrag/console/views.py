"""The chat page and what belongs to it. Everything here works without JavaScript; chat.js makes it live."""

from __future__ import annotations

import uuid
from functools import wraps
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.conf import settings
from django.contrib.auth import views as auth_views
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from adaptrag.common.errors import AdaptRAGError, InvalidInput, NotFound
from adaptrag.console import conversations, wording
from adaptrag.console.dashboard import live_jobs
from adaptrag.logs import refusal_note
from adaptrag.orchestrator import MESSAGES_CHARS_MAX, QueryRequest, query
from agents.models import Chunk, Collection, Document, DocumentImage
from agents.selectors import answering_variants, image_path
from agents.strategies import STRATEGIES
from rewards.models import Interaction, Reward
from rewards.services import feedback_record

# Pages that show texts of documents and models: nothing in such a text could run or load anything even if it got out of
# its escaping. The only script and style are this site's own files.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
NEIGHBOURS = 4  # passages shown before and after the one that a source link points to


def _page(view: Any) -> Any:
    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response = view(request, *args, **kwargs)
        response["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        return response

    return never_cache(guarded)


def rater_of(user: Any) -> str:
    """The rater's name of a signed-in user; the API uses the same, so a rating given there or here is one rating."""
    return f"user:{user.get_username()}"


login = _page(auth_views.LoginView.as_view(template_name="console/login.html"))


@_page
@login_required
@require_http_methods(["GET", "POST"])
def chat(request: HttpRequest, conversation: UUID | None = None) -> HttpResponse:
    """The conversation page; a POST asks without JavaScript and leads to the answer."""
    conversation = conversation or uuid.uuid4()
    if request.method == "POST":
        return _ask(request, conversation)
    return _chat_page(request, conversation)


def _ask(request: HttpRequest, conversation: UUID) -> HttpResponse:
    try:
        result = query(
            QueryRequest(
                question=request.POST.get("question", ""),
                messages=conversations.earlier_messages(request.user, conversation),
                session=conversations.session_name(conversation),
                agent=request.POST.get("agent") or None,
                collection=request.POST.get("collection") or None,
                user=request.user,
            )
        )
    except AdaptRAGError as error:
        refusal_note(error)
        return _chat_page(request, conversation, error=error)
    chosen = {name: request.POST[name] for name in ("agent", "collection") if request.POST.get(name)}
    return redirect(f"{reverse('conversation', args=[conversation])}?{urlencode(chosen)}#turn-{result.interaction_id}")


def _chat_page(request: HttpRequest, conversation: UUID, error: AdaptRAGError | None = None) -> HttpResponse:
    turns = conversations.turns(request.user, conversation, rater_of(request.user))
    expected = conversations.expected_seconds()
    chosen = request.POST if request.method == "POST" else request.GET
    agents = [
        (variant.name, STRATEGIES[variant.strategy].summary)
        for variant in answering_variants()
        if variant.strategy in STRATEGIES
    ]
    collections = list(Collection.objects.order_by("name").values_list("name", flat=True))
    context = {
        "conversation": conversation,
        "conversations": conversations.conversations(request.user),
        "turns": turns,
        # A failed question stands in the conversation already; one that was refused does not.
        "error": error if error is not None and "interaction_id" not in error.details else None,
        "question": request.POST.get("question", "") if error else "",
        "agents": agents,
        "agent": chosen["agent"] if chosen.get("agent") in dict(agents) else "",
        "collections": collections,
        "collection": chosen.get("collection") or settings.ADAPTRAG_DEFAULT_COLLECTION,
        "documents": Document.objects.filter(state=Document.State.READY).count(),
        "expected": {name: wording.expectation(name, expected.get(name)) for name in ("", *dict(agents))},
        "earlier_limit": MESSAGES_CHARS_MAX,
        "question_limit": settings.ADAPTRAG_MAX_QUESTION_CHARS,
    }  # fmt: skip
    return render(request, "console/chat.html", context, status=error.status if error else 200)


def _own_interaction(request: HttpRequest, interaction_id: UUID) -> Interaction:
    return get_object_or_404(Interaction.objects.select_related("variant"), pk=interaction_id, asked_by=request.user)


def _rating(request: HttpRequest, interaction: Interaction) -> Reward | None:
    return Reward.objects.filter(interaction=interaction, source=Reward.Source.USER, rater=rater_of(request.user)).first()


@_page
@login_required
@require_GET
def answer(request: HttpRequest, interaction_id: UUID) -> HttpResponse:
    """One of the user's own answers as it stands in the conversation: what chat.js puts in place of the streamed text."""
    interaction = _own_interaction(request, interaction_id)
    turn = conversations.turn(interaction, _rating(request, interaction))
    return render(request, "console/_turn.html", {"turn": turn, "conversation": request.GET.get("conversation", "")})


@_page
@login_required
@require_POST
def rate(request: HttpRequest, interaction_id: UUID) -> HttpResponse:
    """A rating without JavaScript. A thumb sends `reward`; the slider's own button sends `reward=slider`."""
    interaction = _own_interaction(request, interaction_id)
    value = request.POST.get("reward", "")
    try:
        result = feedback_record(
            interaction_id=interaction.pk,
            reward=_number(request.POST.get("slider", "") if value == "slider" else value),
            rater=rater_of(request.user),
            correction=request.POST.get("correction", ""),
            comment=request.POST.get("comment", ""),
        )
    except AdaptRAGError as error:
        rating, problem, changed = _rating(request, interaction), error, ""
    else:
        rating, problem, changed = result.reward, None, wording.changed(result.outcome, result.arm)
    context = {
        "turn": conversations.turn(interaction, rating),
        "conversation": interaction.session.removeprefix(conversations.SESSION_PREFIX),
        "problem": problem,
        "changed": changed,
    }
    return render(request, "console/rated.html", context, status=problem.status if problem else 200)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"A rating is a number from 0 to 1, not {text!r}.", field="reward") from None


@_page
@login_required
@require_GET
def source(request: HttpRequest, chunk_id: int) -> HttpResponse:
    """A passage at its place in the document; the text as the agent saw it where the document has changed since."""
    chunk = Chunk.objects.select_related("document__collection").filter(pk=chunk_id).first()
    if chunk is None:
        logged = _logged_source(request, chunk_id)
        return render(request, "console/source_gone.html", {"source": logged}, status=200 if logged else 404)
    near = chunk.document.chunks.filter(ordinal__range=(chunk.ordinal - NEIGHBOURS, chunk.ordinal + NEIGHBOURS))
    around = list(near.select_related("image").order_by("ordinal"))
    last = chunk.document.chunks.order_by("-ordinal").values_list("ordinal", flat=True).first()
    context = {
        "document": chunk.document,
        "chunk": chunk,
        "around": around,
        "total": last + 1,
        "before": _at(chunk, around[0].ordinal - NEIGHBOURS - 1) if around[0].ordinal else None,
        "after": _at(chunk, around[-1].ordinal + NEIGHBOURS + 1) if around[-1].ordinal < last else None,
        "query": request.GET.urlencode(),
    }
    return render(request, "console/source.html", context)


@_page
@login_required
@require_GET
def source_image(request: HttpRequest, image_id: int) -> HttpResponse:
    """An image of a document, for whoever may open its sources."""
    image = get_object_or_404(DocumentImage, pk=image_id)
    try:
        return HttpResponse(image_path(image).read_bytes(), content_type=image.content_type)
    except NotFound as error:
        raise Http404(error.message) from error


def _at(chunk: Chunk, ordinal: int) -> Chunk | None:
    """The passage of the same document at or next to `ordinal`, for the links to what comes before and after."""
    chunks = chunk.document.chunks
    return chunks.filter(ordinal__gte=max(0, ordinal)).order_by("ordinal").first() or chunks.order_by("-ordinal").first()


@require_GET
def live_jobs_fragment(request: HttpRequest) -> HttpResponse:
    """The admin home's list of running jobs, which fetches itself again while there are any."""
    return render(request, "admin/console/jobs.html", {"jobs": live_jobs(request)})


def _logged_source(request: HttpRequest, chunk_id: int) -> dict[str, Any] | None:
    try:
        interactions = Interaction.objects.filter(pk=UUID(request.GET.get("interaction", "")))
    except ValueError:
        return None
    if not request.user.has_perm("rewards.view_interaction"):
        interactions = interactions.filter(asked_by=request.user)
    for sources in interactions.values_list("sources", flat=True):
        return next((one for one in sources if one["chunk_id"] == chunk_id), None)
    return None
