"""What can answer (agents, weights made here) and what answers are made from (collections, documents, chunks, index builds)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from simple_history.models import HistoricalRecords

from agents.errors import ImmutableVariant

# Languages with a Snowball stemmer; "none" leaves words as they are.
LANGUAGES = (
    "none", "arabic", "armenian", "basque", "catalan", "czech", "danish", "dutch", "english", "esperanto", "estonian",
    "finnish", "french", "german", "greek", "hindi", "hungarian", "indonesian", "irish", "italian", "lithuanian", "nepali",
    "norwegian", "persian", "polish", "portuguese", "romanian", "russian", "serbian", "sesotho", "spanish", "swedish",
    "tamil", "turkish", "yiddish",
)  # fmt: skip

TOP_K_DEFAULT, TOP_K_MAX = 5, 50

slug_validator = RegexValidator(
    r"^[a-z0-9][a-z0-9_-]{0,63}$",
    "Use 1 to 64 lower-case letters, digits, '_' or '-', starting with a letter or digit.",
)


class Collection(models.Model):
    """A set of documents that is searched as one; collections separate audiences."""

    name = models.CharField(max_length=64, unique=True, validators=[slug_validator])
    description = models.TextField(blank=True)
    language = models.CharField(
        max_length=32,
        default="english",
        choices=[(name, name) for name in LANGUAGES],
        help_text="Stemming and stop words of the BM25 index. A change takes effect when the collection is indexed again.",
    )
    top_k = models.PositiveSmallIntegerField(
        "top_k",
        default=TOP_K_DEFAULT,
        validators=[MinValueValidator(1), MaxValueValidator(TOP_K_MAX)],
        help_text="Passages that are searched for a question asked without top_k. An agent puts its prompt_passages best of "
        "them in the prompt.",
    )
    content_version = models.PositiveBigIntegerField(
        default=0, editable=False, help_text="Counts the changes of its passages; an index build notes the one that it holds."
    )
    current_build = models.ForeignKey(
        "IndexBuild", null=True, blank=True, editable=False, on_delete=models.SET_NULL, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    history = HistoricalRecords(excluded_fields=["content_version", "current_build"])

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Document(models.Model):
    """One file as the operator gave it. (collection, source) is unique: the same source again replaces its content.

    pending -> ready when an index that holds its passages is in place; failed if its file turned out to be unreadable.
    """

    class State(models.TextChoices):
        PENDING = "pending"
        READY = "ready"
        FAILED = "failed"

    collection = models.ForeignKey(Collection, on_delete=models.CASCADE, related_name="documents")
    source = models.CharField(max_length=1000, help_text="Path or name that identifies the document in its collection.")
    title = models.CharField(max_length=500, blank=True)
    content_type = models.CharField(max_length=100)
    file = models.FileField(upload_to="documents/", max_length=300, blank=True)
    sha256 = models.CharField(max_length=64, blank=True, db_index=True, help_text="Empty until its first file is read.")
    size = models.PositiveBigIntegerField(help_text="Bytes.")
    incoming = models.FileField(
        upload_to="documents/", max_length=300, blank=True, editable=False, help_text="A newer file that waits to be read."
    )
    incoming_sha256 = models.CharField(max_length=64, blank=True, editable=False)
    state = models.CharField(max_length=16, choices=State, default=State.PENDING)
    error = models.TextField(blank=True)
    metadata = models.JSONField(default=dict, blank=True)
    tables_file = models.FileField(
        upload_to="tables/",
        max_length=300,
        blank=True,
        editable=False,
        help_text="DuckDB file with its tables; metadata.tables describes them.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["collection", "source"], name="document_source_once")]

    def __str__(self) -> str:
        return self.title or self.source


class DocumentImage(models.Model):
    """A picture that is a document or stands in one, and what was read from it."""

    document = models.ForeignKey(Document, on_delete=models.CASCADE, related_name="images")
    number = models.PositiveIntegerField(help_text="Counts from 1 in the document.")
    file = models.FileField(upload_to="images/", max_length=300)
    content_type = models.CharField(max_length=32)
    width = models.PositiveIntegerField()
    height = models.PositiveIntegerField()
    text = models.TextField(blank=True, help_text="What the character recognition read.")
    description = models.TextField(blank=True, help_text="What the vision model wrote.")

    class Meta:
        ordering = ["document_id", "number"]
        constraints = [models.UniqueConstraint(fields=["document", "number"], name="image_number_once")]

    def __str__(self) -> str:
        return f"{self.document} image {self.number}"


class Chunk(models.Model):
    """A passage of a document: the unit that is indexed and retrieved. start/end are character offsets in the parsed text."""

    class Kind(models.TextChoices):
        TEXT = "text"
        SCHEMA = "schema"
        ROWS = "rows"
        IMAGE = "image"

    document = models.ForeignKey(Document, on_delete=models.CASCADE, related_name="chunks")
    ordinal = models.PositiveIntegerField()
    text = models.TextField()
    heading = models.CharField(max_length=500, blank=True)
    page = models.PositiveIntegerField(null=True, blank=True)
    start = models.PositiveIntegerField(default=0)
    end = models.PositiveIntegerField(default=0)
    windows = models.JSONField(
        default=list, help_text="[start, end] of the parts that are embedded, one vector each, in characters of the passage."
    )
    kind = models.CharField(max_length=16, choices=Kind, default=Kind.TEXT)
    place = models.JSONField(
        default=dict, blank=True, help_text="What it has of: slide, sheet, table, rows [first, last], lines [first, last]."
    )
    image = models.ForeignKey(DocumentImage, null=True, blank=True, on_delete=models.CASCADE, related_name="chunks")

    class Meta:
        ordering = ["document_id", "ordinal"]
        constraints = [models.UniqueConstraint(fields=["document", "ordinal"], name="chunk_ordinal_once")]

    def __str__(self) -> str:
        return f"{self.document_id}#{self.ordinal}"


class IndexBuild(models.Model):
    """One version of a collection's index files. Built aside, renamed into place, then named by `Collection.current_build`."""

    class State(models.TextChoices):
        BUILDING = "building"
        READY = "ready"
        FAILED = "failed"

    collection = models.ForeignKey(Collection, on_delete=models.CASCADE, related_name="builds")
    state = models.CharField(max_length=16, choices=State, default=State.BUILDING)
    path = models.CharField(max_length=500, blank=True, help_text="Folder of the files, relative to the data folder.")
    base = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="deltas",
        help_text="The whole build that this one adds newer passages to; none for a whole build.",
    )
    chunks = models.PositiveIntegerField(default=0)
    content_version = models.PositiveBigIntegerField(default=0, help_text="The collection's, when its passages were read.")
    embedding_model = models.CharField(max_length=200, blank=True)
    bytes_on_disk = models.PositiveBigIntegerField(default=0)
    seconds = models.FloatField(default=0)
    error = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.collection_id} build {self.pk}"


class Tombstone(models.Model):
    """A document that an index build still holds and no search may return; the next build leaves it out for good.

    Written in the transaction that deletes the document. No constraint in the database: when a whole collection is deleted,
    its builds go in the same transaction.
    """

    build = models.ForeignKey(IndexBuild, on_delete=models.CASCADE, db_constraint=False, related_name="tombstones")
    document_id = models.BigIntegerField()

    def __str__(self) -> str:
        return f"{self.build_id} without {self.document_id}"


class DerivedIndex(models.Model):
    """What some strategies search beside the passages: sentences, children, the graph. Files like a build's, made after it.

    One row for each kind, naming the version that serves; it is made where an enabled agent's strategy needs it.
    """

    class Kind(models.TextChoices):
        SENTENCE = "sentence"
        CHILD = "child"
        GRAPH = "graph"

    collection = models.ForeignKey(Collection, on_delete=models.CASCADE, related_name="derived")
    kind = models.CharField(max_length=16, choices=Kind)
    path = models.CharField(max_length=500, help_text="Folder of the files, relative to the data folder.")
    content_version = models.PositiveBigIntegerField(help_text="The collection's, when its passages were read.")
    maker = models.CharField(max_length=300, help_text="What it was made with: form, language, embedding model.")
    items = models.PositiveIntegerField(help_text="Sentences, children, or entities.")
    bytes_on_disk = models.PositiveBigIntegerField(default=0)
    seconds = models.FloatField(default=0)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["collection_id", "kind"]
        constraints = [models.UniqueConstraint(fields=["collection", "kind"], name="derived_index_once")]

    def __str__(self) -> str:
        return f"{self.collection_id} {self.kind}"


class ModelArtifact(models.Model):
    """Weights that were made here: an adapter, a merged model, a quantized build. Never changed; a name is never used again.

    `provenance` names what it came of: the run, the dataset with its hash, the recipe. From there rows lead to interactions.
    """

    class Kind(models.TextChoices):
        ADAPTER = "adapter", "LoRA adapter"
        MERGED = "merged", "merged model"
        QUANTIZED = "quantized", "quantized build"

    name = models.CharField(max_length=64, unique=True, validators=[slug_validator])
    kind = models.CharField(max_length=16, choices=Kind)
    base_model = models.CharField(max_length=300, help_text="Name or folder of the model that it belongs to.")
    base_sha256 = models.CharField(max_length=64, blank=True, help_text="Of the base model's weights.")
    parent = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="builds")
    path = models.CharField(max_length=500, help_text="Its folder, relative to the data folder.")
    sha256 = models.CharField(max_length=64, help_text="Of its weights.")
    bytes_on_disk = models.PositiveBigIntegerField(default=0)
    provenance = models.JSONField(default=dict, blank=True)
    parameters = models.JSONField(default=dict, blank=True)
    metrics = models.JSONField(default=dict, blank=True)
    versions = models.JSONField(default=dict, blank=True, help_text="Of the libraries that made it.")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.name

    @property
    def folder(self) -> Path:
        return Path(settings.DATA_DIR) / self.path


class AgentVariant(models.Model):
    """A configured answerer, (name, revision). What it does is immutable; a change makes a new revision.

    `agents.services.agent_revise` is the way to change one; `save` refuses to alter an immutable field.
    """

    class State(models.TextChoices):
        CANDIDATE = "candidate"
        CANARY = "canary"
        ACTIVE = "active"
        RETIRED = "retired"

    class Backend(models.TextChoices):
        LOCAL = "local", "local model"
        OPENAI = "openai_compatible", "OpenAI-compatible server"
        SCRIPTED = "scripted", "scripted (tests)"

    IMMUTABLE = (
        "name",
        "revision",
        "strategy",
        "chat_backend",
        "chat_model",
        "chat_options",
        "artifact_id",
        "parameters",
        "predecessor_id",
        "inherit",
    )

    name = models.CharField(max_length=64, validators=[slug_validator])
    revision = models.PositiveIntegerField(default=1, editable=False)
    strategy = models.CharField(max_length=64, help_text="The RAG strategy, one of agents.strategies.")
    chat_backend = models.CharField(max_length=32, choices=Backend, default=Backend.LOCAL)
    chat_model = models.CharField(
        max_length=300, blank=True, help_text="Name of the model on its backend; empty for the backend's default."
    )
    chat_options = models.JSONField(
        default=dict,
        blank=True,
        help_text="base_url, api_key_env, timeout, max_retries, max_tokens, temperature, prices per million tokens, fallback.",
    )
    artifact = models.ForeignKey(
        ModelArtifact,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="variants",
        help_text="Adapter that the chat model answers with.",
    )
    parameters = models.JSONField(default=dict, blank=True, help_text="Parameters of the strategy, validated by it.")
    predecessor = models.ForeignKey(
        "self", null=True, blank=True, editable=False, on_delete=models.PROTECT, related_name="successors"
    )
    inherit = models.FloatField(
        default=0.5, help_text="Share of the predecessor's evidence that this revision starts with, 0 to 1."
    )
    state = models.CharField(max_length=16, choices=State, default=State.ACTIVE)
    enabled = models.BooleanField(default=True)
    note = models.TextField(blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, editable=False, on_delete=models.SET_NULL, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    history = HistoricalRecords()

    class Meta:
        ordering = ["name", "-revision"]
        constraints = [
            models.UniqueConstraint(fields=["name", "revision"], name="variant_revision_once"),
            models.CheckConstraint(condition=models.Q(inherit__gte=0, inherit__lte=1), name="variant_inherit_share"),
        ]

    def __str__(self) -> str:
        return f"{self.name} r{self.revision}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding and (stored := type(self).objects.filter(pk=self.pk).values(*self.IMMUTABLE).first()):
            changed = [name for name, value in stored.items() if getattr(self, name) != value]
            if changed:
                raise ImmutableVariant(
                    f"{self} can't change its {', '.join(changed)}: interactions refer to what it did. Make a new revision.",
                    fields=changed,
                )
        super().save(*args, **kwargs)
