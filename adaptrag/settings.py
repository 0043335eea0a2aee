"""Settings of the project, read from the environment (and from `.env` beside manage.py, if there is one).

Every variable is described in docs/configuration.md; `manage.py check --deploy` names what a production site still lacks.
"""

import json
import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import environ
from django.core.exceptions import ImproperlyConfigured

from adaptrag.console.theme import UNFOLD  # noqa: F401 the admin theme's settings
from adaptrag.logs import logging_settings

# Two decode threads that spin wait for each other as soon as anything else runs; passive waiting lets them share a core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()
if (BASE_DIR / ".env").is_file():
    env.read_env(str(BASE_DIR / ".env"))

# Variables whose text can't be read; system checks name them, and the defaults stand in until they are mended.
MALFORMED_ENVIRONMENT: dict[str, str] = {}


def _number(name: str, default: float, cast=env.int):
    try:
        return cast(name, default=default)
    except ValueError:
        MALFORMED_ENVIRONMENT[name] = f"{os.environ.get(name, '')!r} is not a number"
        return default


def _json(name: str) -> dict[str, Any]:
    try:
        value = json.loads(env.str(name, default="") or "{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        MALFORMED_ENVIRONMENT[name] = f"{os.environ.get(name, '')!r} is no JSON object"
        return {}
    return value


def _flag(name: str, default: bool) -> bool:
    text = env.str(name, default=str(default)).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text not in ("0", "false", "no", "off", ""):
        MALFORMED_ENVIRONMENT[name] = f"{text!r} is neither true nor false"
        return default
    return False


def _url(name: str, parse: Callable[..., dict[str, Any]], default: str, example: str) -> dict[str, Any]:
    """A malformed address stops the site: with another database or cache in its place it would run, and be wrong."""
    try:
        found = parse(name, default=default)
    except ImproperlyConfigured:
        found = {}
    if not (found.get("ENGINE") or found.get("BACKEND")):
        raise ImproperlyConfigured(f"{name} can't be read. Write it as in {example}")
    return found


DATA_DIR = Path(env.str("ADAPTRAG_DATA_DIR", default=str(BASE_DIR / "var"))).expanduser().resolve()
try:
    DATA_DIR.mkdir(parents=True, exist_ok=True)
except OSError as error:
    raise ImproperlyConfigured(
        f"The data folder {DATA_DIR} can't be made ({error.strerror}). Set ADAPTRAG_DATA_DIR."
    ) from error


def _secret_key() -> str:
    """The environment's key, or one made once for this data folder, so that no secret stands in the repository."""
    if key := env.str("ADAPTRAG_SECRET_KEY", default=""):
        return key
    path = DATA_DIR / "secret_key"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as handle:
        handle.write(secrets.token_urlsafe(50))
    return path.read_text().strip()


SECRET_KEY = _secret_key()
DEBUG = _flag("ADAPTRAG_DEBUG", False)
ALLOWED_HOSTS = env.list("ADAPTRAG_ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("ADAPTRAG_CSRF_TRUSTED_ORIGINS", default=[])

# A site that is reached over HTTPS says so with one variable; the rest follows. Probes may stay on plain HTTP.
HTTPS = _flag("ADAPTRAG_HTTPS", False)
SECURE_SSL_REDIRECT = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^api/health$"]
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SECURE = HTTPS
SECURE_HSTS_SECONDS = _number("ADAPTRAG_HSTS_SECONDS", 31_536_000) if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS
SECURE_HSTS_PRELOAD = HTTPS
SESSION_COOKIE_HTTPONLY = True
X_FRAME_OPTIONS = "DENY"
CSRF_FAILURE_VIEW = "adaptrag.api.errors.csrf_failure"

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "unfold.contrib.import_export",
    "unfold.contrib.simple_history",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_prometheus",
    "django_structlog",
    "adaptrag",  # before django_q: its `qcluster` takes the place of django-q's
    "django_q",
    "import_export",
    "simple_history",
    "knox",
    "adaptrag.common",
    "agents",
    "rewards",
    "training",
    "evals",
    "adaptrag.loop",
    "adaptrag.api",
    "adaptrag.console",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "simple_history.middleware.HistoryRequestMiddleware",
    "adaptrag.logs.RequestLogMiddleware",
    "adaptrag.api.metrics.RequestMetricsMiddleware",
]

ROOT_URLCONF = "adaptrag.urls"
ASGI_APPLICATION = "adaptrag.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES = {
    "default": _url(
        "DATABASE_URL", env.db_url, f"sqlite:///{DATA_DIR / 'db.sqlite3'}", "postgresql://user:password@host:5432/name"
    )
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # Measured with 16 processes x 10,000 writes: Django's default lost 70 % to lock errors, this none.
    # synchronous=FULL: an answered request is on disk before its response leaves.
    # Connections stay with their thread: opening one costs more than most requests (six statements and a file).
    DATABASES["default"]["CONN_MAX_AGE"] = None
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": (
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=20000; PRAGMA cache_size=-20000;"
        ),
    }
else:
    DATABASES["default"].setdefault("CONN_MAX_AGE", 60)
    DATABASES["default"].setdefault("CONN_HEALTH_CHECKS", True)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
AUTHENTICATION_BACKENDS = ["adaptrag.api.authentication.PasswordBackend"]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "chat"
LOGOUT_REDIRECT_URL = "login"

LANGUAGE_CODE = "en-us"
TIME_ZONE = env.str("ADAPTRAG_TIME_ZONE", default="UTC")
USE_TZ = True
FORMAT_MODULE_PATH = ["adaptrag.console.formats"]
STATIC_URL = "/static/"
STATIC_ROOT = DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"] if (BASE_DIR / "static").is_dir() else []
MEDIA_ROOT = DATA_DIR / "uploads"
MEDIA_URL = "/uploads/"  # never served as files: documents are opened through views that check the key or the user

# Keys -------------------------------------------------------------------------------------------------------------
KNOX_TOKEN_MODEL = "api.ApiKey"  # noqa: S105
REST_KNOX = {
    "AUTH_HEADER_PREFIX": "Bearer",
    "TOKEN_TTL": None,
    "AUTO_REFRESH": False,
    "TOKEN_PREFIX": "ar_",
}

# API --------------------------------------------------------------------------------------------------------------
ADAPTRAG_MAX_QUESTION_CHARS = _number("ADAPTRAG_MAX_QUESTION_CHARS", 8000)
ADAPTRAG_MAX_BODY_BYTES = _number("ADAPTRAG_MAX_BODY_BYTES", 1_000_000)
ADAPTRAG_MAX_UPLOAD_BYTES = _number("ADAPTRAG_MAX_UPLOAD_BYTES", 50_000_000)
# Requests at once and requests that may wait for their turn, in each of two lanes: answers, and everything else.
ADAPTRAG_WEB_THREADS = _number("ADAPTRAG_WEB_THREADS", 8)
ADAPTRAG_WEB_BACKLOG = _number("ADAPTRAG_WEB_BACKLOG", 128)
ADAPTRAG_METRICS = env.str("ADAPTRAG_METRICS", default="operator")  # who may read /metrics: operator, open, off
ADAPTRAG_THROTTLES = {
    "key": env.str("ADAPTRAG_THROTTLE_KEY", default="20000/min"),
    "user": env.str("ADAPTRAG_THROTTLE_USER", default="40000/min"),
    "anonymous": env.str("ADAPTRAG_THROTTLE_ANONYMOUS", default="600/min"),
    "failed_login": env.str("ADAPTRAG_THROTTLE_FAILED_LOGIN", default="60/min"),
}
DATA_UPLOAD_MAX_MEMORY_SIZE = ADAPTRAG_MAX_BODY_BYTES
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "adaptrag.api.authentication.KeyAuthentication",
        "adaptrag.api.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["adaptrag.api.permissions.HasScope"],
    "DEFAULT_THROTTLE_CLASSES": [
        "adaptrag.api.throttling.KeyThrottle",
        "adaptrag.api.throttling.UserThrottle",
        "adaptrag.api.throttling.AnonymousThrottle",
    ],
    "DEFAULT_PARSER_CLASSES": ["adaptrag.api.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "adaptrag.api.negotiation.AlwaysFirst",
    "DEFAULT_PAGINATION_CLASS": "adaptrag.api.pagination.Pages",
    "DEFAULT_METADATA_CLASS": None,
    "DEFAULT_SCHEMA_CLASS": "adaptrag.api.schema.ApiSchema",
    "EXCEPTION_HANDLER": "adaptrag.api.errors.exception_handler",
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "AdaptRAG",
    "DESCRIPTION": "Questions over your documents, answered by competing agents; feedback teaches the router which to trust.",
    "VERSION": "0.1.0",
    "OAS_VERSION": "3.0.3",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": r"/api",
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_ADD_EXPLICIT_BLANK_NULL_CHOICE": False,
    "ENUM_NAME_OVERRIDES": {"AgentVariantStateEnum": "agents.models.AgentVariant.State"},
    "PREPROCESSING_HOOKS": ["adaptrag.api.schema.only_api"],
    "POSTPROCESSING_HOOKS": ["drf_spectacular.hooks.postprocess_schema_enums", "adaptrag.api.schema.add_errors"],
}

# Throttles count in this cache: memory of one process by default, a shared one (redis://...) for several processes.
CACHES = {"default": _url("ADAPTRAG_CACHE_URL", env.cache_url, "locmemcache://", "redis://127.0.0.1:6379/0")}
CACHES["default"].setdefault("OPTIONS", {}).setdefault("MAX_ENTRIES", 20_000)

# Chat models ------------------------------------------------------------------------------------------------------
# Where local models run: auto (the model process; here, where a command runs alone without one), server, inprocess.
ADAPTRAG_LOCAL_MODEL = env.str("ADAPTRAG_LOCAL_MODEL", default="auto")
ADAPTRAG_LOCAL_DTYPE = env.str("ADAPTRAG_LOCAL_DTYPE", default="auto")  # auto, fp32, bf16, int8
ADAPTRAG_LOCAL_THREADS = _number("ADAPTRAG_LOCAL_THREADS", 0)  # 0: measured at start
ADAPTRAG_LOCAL_MODELS = _number("ADAPTRAG_LOCAL_MODELS", 4)  # loaded at once; an improvement asks four
LORA_ADAPTERS_PATH = env.str("LORA_ADAPTERS_PATH", default="")  # adapter folder of lora_rag agents that have no artifact

# Training ---------------------------------------------------------------------------------------------------------
ADAPTRAG_SFT_MAX_TOKENS = _number("ADAPTRAG_SFT_MAX_TOKENS", 1024)  # of an example, prompt and answer
ADAPTRAG_SFT_SCRUB = _flag("ADAPTRAG_SFT_SCRUB", True)  # replace secrets and e-mail addresses in datasets
ADAPTRAG_TEACHER_MODEL = env.str("ADAPTRAG_TEACHER_MODEL", default="")  # none: no teacher
ADAPTRAG_TEACHER_BACKEND = env.str("ADAPTRAG_TEACHER_BACKEND", default="openai_compatible")  # or local
ADAPTRAG_TEACHER_OPTIONS = _json("ADAPTRAG_TEACHER_OPTIONS")  # as an agent's chat options: base_url, api_key_env, prices, ...
ADAPTRAG_TEACHER_BUDGET_USD = _number("ADAPTRAG_TEACHER_BUDGET_USD", 5.0, env.float)
ADAPTRAG_TRAINING_THREADS = _number("ADAPTRAG_TRAINING_THREADS", 0)  # 0: measured at start
# How far a reloaded build may be from the unquantized model before the quantization fails.
ADAPTRAG_QUANTIZATION_MAX_PERPLEXITY_RISE = _number("ADAPTRAG_QUANTIZATION_MAX_PERPLEXITY_RISE", 0.25, env.float)
ADAPTRAG_QUANTIZATION_MIN_OVERLAP = _number("ADAPTRAG_QUANTIZATION_MIN_OVERLAP", 0.4, env.float)

# Evaluation -------------------------------------------------------------------------------------------------------
# The chat model that judges answers where a run names none; empty: only runs that name one can be judged by a model.
ADAPTRAG_JUDGE_BACKEND = env.str("ADAPTRAG_JUDGE_BACKEND", default="")  # openai_compatible, local
ADAPTRAG_JUDGE_MODEL = env.str("ADAPTRAG_JUDGE_MODEL", default="")
ADAPTRAG_JUDGE_OPTIONS = _json("ADAPTRAG_JUDGE_OPTIONS")  # of that model: base_url, timeout, prices

# Promotion --------------------------------------------------------------------------------------------------------
# Rewards and shares lie between 0 and 1; docs/decisions/0015-promotion.md says what the defaults were measured at.
ADAPTRAG_GATE_REFERENCES = _number("ADAPTRAG_GATE_REFERENCES", 50)
ADAPTRAG_GATE_MARGIN = _number("ADAPTRAG_GATE_MARGIN", 0.05, env.float)
ADAPTRAG_CANARY_SHARE = _number("ADAPTRAG_CANARY_SHARE", 0.1, env.float)
ADAPTRAG_CANARY_MAX_SHARE = _number("ADAPTRAG_CANARY_MAX_SHARE", 0.2, env.float)
ADAPTRAG_CANARY_RATINGS = _number("ADAPTRAG_CANARY_RATINGS", 10)
ADAPTRAG_CANARY_GROW_AT = _number("ADAPTRAG_CANARY_GROW_AT", 0.8, env.float)
ADAPTRAG_CANARY_ACTIVATE_AT = _number("ADAPTRAG_CANARY_ACTIVATE_AT", 0.95, env.float)
ADAPTRAG_GUARD_MARGIN = _number("ADAPTRAG_GUARD_MARGIN", 0.05, env.float)
ADAPTRAG_GUARD_AT = _number("ADAPTRAG_GUARD_AT", 0.98, env.float)
ADAPTRAG_GUARD_RATINGS = _number("ADAPTRAG_GUARD_RATINGS", 8)
ADAPTRAG_GUARD_ERRORS = _number("ADAPTRAG_GUARD_ERRORS", 0.1, env.float)
ADAPTRAG_GUARD_LATENCY = _number("ADAPTRAG_GUARD_LATENCY", 2.0, env.float)  # 0: latency is not guarded
# Steps that wait for a person's click.
ADAPTRAG_ASK_CANARY = _flag("ADAPTRAG_ASK_CANARY", False)
ADAPTRAG_ASK_GROW = _flag("ADAPTRAG_ASK_GROW", False)
ADAPTRAG_ASK_ACTIVE = _flag("ADAPTRAG_ASK_ACTIVE", False)
ADAPTRAG_ASK_ROLLBACK = _flag("ADAPTRAG_ASK_ROLLBACK", False)

# Documents and retrieval ------------------------------------------------------------------------------------------
ADAPTRAG_DEFAULT_COLLECTION = env.str("ADAPTRAG_DEFAULT_COLLECTION", default="default")
ADAPTRAG_MODELS_DIR = Path(env.str("ADAPTRAG_MODELS_DIR", default=str(DATA_DIR / "models"))).expanduser().resolve()
# Tokens of a passage, and of the parts of it that get a vector each; docs/decisions/0002-retrieval.md says why.
ADAPTRAG_CHUNK_TOKENS = _number("ADAPTRAG_CHUNK_TOKENS", 128)
ADAPTRAG_WINDOW_TOKENS = _number("ADAPTRAG_WINDOW_TOKENS", 64)
# What a file may hold, and what reading it may cost; a file over a limit is rejected with the limit's name.
ADAPTRAG_MAX_PAGES = _number("ADAPTRAG_MAX_PAGES", 2000)
ADAPTRAG_MAX_RECORDS = _number("ADAPTRAG_MAX_RECORDS", 100_000)
ADAPTRAG_MAX_TABLE_COLUMNS = _number("ADAPTRAG_MAX_TABLE_COLUMNS", 1000)
ADAPTRAG_MAX_TABLE_CELLS = _number("ADAPTRAG_MAX_TABLE_CELLS", 5_000_000)
ADAPTRAG_MAX_CELL_CHARS = _number("ADAPTRAG_MAX_CELL_CHARS", 32_767)
ADAPTRAG_INDEXED_ROWS = _number("ADAPTRAG_INDEXED_ROWS", 20_000)
ADAPTRAG_MAX_PIXELS = _number("ADAPTRAG_MAX_PIXELS", 50_000_000)
ADAPTRAG_MAX_IMAGES = _number("ADAPTRAG_MAX_IMAGES", 30)
ADAPTRAG_MAX_EXPANDED_BYTES = _number("ADAPTRAG_MAX_EXPANDED_BYTES", 300_000_000)
ADAPTRAG_MAX_DOCUMENT_CHARS = _number("ADAPTRAG_MAX_DOCUMENT_CHARS", 10_000_000)
ADAPTRAG_PARSE_SECONDS = _number("ADAPTRAG_PARSE_SECONDS", 120)
ADAPTRAG_PARSE_MEMORY_BYTES = _number("ADAPTRAG_PARSE_MEMORY_BYTES", 1_000_000_000)
# The same by type, over the general ones: {"pdf": {"pages": 500}, "csv": {"bytes": 200000000}}.
ADAPTRAG_TYPE_LIMITS = _json("ADAPTRAG_TYPE_LIMITS")
# Text in images is read here; what they show is described by a vision model, where one is named.
ADAPTRAG_OCR = _flag("ADAPTRAG_OCR", True)
ADAPTRAG_OCR_SECONDS = _number("ADAPTRAG_OCR_SECONDS", 300)
ADAPTRAG_OCR_MEMORY_BYTES = _number("ADAPTRAG_OCR_MEMORY_BYTES", 2_000_000_000)
ADAPTRAG_VISION_MODEL = env.str("ADAPTRAG_VISION_MODEL", default="")
ADAPTRAG_VISION_OPTIONS = _json("ADAPTRAG_VISION_OPTIONS")  # as an agent's chat options: base_url, api_key_env, timeout, ...
# What a query of a table may cost.
ADAPTRAG_SQL_SECONDS = _number("ADAPTRAG_SQL_SECONDS", 10)
ADAPTRAG_SQL_MEMORY_BYTES = _number("ADAPTRAG_SQL_MEMORY_BYTES", 1_000_000_000)
ADAPTRAG_SQL_ROWS = _number("ADAPTRAG_SQL_ROWS", 200)
# Up to these sizes a document is searchable when its upload returns; above, a job of the queue reads or indexes it.
ADAPTRAG_INLINE_BYTES = _number("ADAPTRAG_INLINE_BYTES", 1_000_000)
ADAPTRAG_INLINE_CHUNKS = _number("ADAPTRAG_INLINE_CHUNKS", 64)
ADAPTRAG_INLINE_COLLECTION_CHUNKS = _number("ADAPTRAG_INLINE_COLLECTION_CHUNKS", 5000)
ADAPTRAG_BM25_BACKEND = env.str("ADAPTRAG_BM25_BACKEND", default="bm25s")  # bm25s, or rank_bm25 as the reference
ADAPTRAG_EMBEDDING_BACKEND = env.str("ADAPTRAG_EMBEDDING_BACKEND", default="onnx")  # onnx, or torch
ADAPTRAG_EMBEDDING_MODEL = env.str("ADAPTRAG_EMBEDDING_MODEL", default="")  # a folder; empty: the shipped MiniLM
# Where indexes are: files in the data folder, or milvus.
ADAPTRAG_INDEX_STORE = env.str("ADAPTRAG_INDEX_STORE", default="files")
ADAPTRAG_MILVUS_URI = env.str("ADAPTRAG_MILVUS_URI", default="")
ADAPTRAG_MILVUS_TOKEN = env.str("ADAPTRAG_MILVUS_TOKEN", default="")
ADAPTRAG_MILVUS_PREFIX = env.str("ADAPTRAG_MILVUS_PREFIX", default="adaptrag")  # of the names of its collections
ADAPTRAG_EMBEDDING_CACHE_BYTES = _number("ADAPTRAG_EMBEDDING_CACHE_BYTES", 1_000_000_000)
ADAPTRAG_EMBEDDING_THREADS = _number("ADAPTRAG_EMBEDDING_THREADS", os.cpu_count() or 1)  # while indexing; a question takes one
# Which model of the OpenAI-compatible server reads relations for graph_rag; empty: rules do.
ADAPTRAG_GRAPH_MODEL = env.str("ADAPTRAG_GRAPH_MODEL", default="")
# Where corrective_rag looks when the documents hold no good evidence: a SearXNG instance with its JSON format switched on.
ADAPTRAG_SEARXNG_URL = env.str("ADAPTRAG_SEARXNG_URL", default="")
ADAPTRAG_SEARXNG_SECONDS = _number("ADAPTRAG_SEARXNG_SECONDS", 5.0, env.float)

# Logs and metrics -------------------------------------------------------------------------------------------------
LOG_LEVEL = env.str("ADAPTRAG_LOG_LEVEL", default="INFO").upper()
LOG_FORMAT = env.str("ADAPTRAG_LOG_FORMAT", default="console")  # console or json, one line an event
LOGGING = logging_settings(level=LOG_LEVEL, form=LOG_FORMAT)
# The address that a client sends along is no evidence; uvicorn logs the peer, and --proxy-headers the one behind a proxy.
DJANGO_STRUCTLOG_IP_LOGGING_ENABLED = False
DJANGO_STRUCTLOG_STATUS_START_LOG_LEVEL = logging.DEBUG
PROMETHEUS_LATENCY_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, float("inf"))

# The loop: `improve` ----------------------------------------------------------------------------------------------
ADAPTRAG_IMPROVE_SCHEDULE = env.str("ADAPTRAG_IMPROVE_SCHEDULE", default="")  # hourly, daily, weekly, monthly; empty: never
ADAPTRAG_IMPROVE_MIN_NEW = _number("ADAPTRAG_IMPROVE_MIN_NEW", 20)  # new corrections and good answers that make a run worth it
ADAPTRAG_IMPROVE_EVAL_SET = env.str("ADAPTRAG_IMPROVE_EVAL_SET", default="")  # whose gold answers gate; empty: corrections do
ADAPTRAG_IMPROVE_QUESTIONS = _number("ADAPTRAG_IMPROVE_QUESTIONS", 200)  # most questions of the gate
ADAPTRAG_IMPROVE_MODEL = env.str("ADAPTRAG_IMPROVE_MODEL", default="")  # the student; empty: the shipped one
ADAPTRAG_IMPROVE_STEPS = _number("ADAPTRAG_IMPROVE_STEPS", 15)  # of the training
ADAPTRAG_IMPROVE_QUANTIZE = env.str("ADAPTRAG_IMPROVE_QUANTIZE", default="none")  # mode of the build that becomes the candidate

# Queue ------------------------------------------------------------------------------------------------------------
ADAPTRAG_QUEUE_WORKERS = _number("ADAPTRAG_QUEUE_WORKERS", 2)
# Seconds. A light job runs in a queue's worker, a heavy one in a process of its own; docs/decisions/0001-jobs.md.
ADAPTRAG_JOBS_LIGHT_LIMIT = _number("ADAPTRAG_JOBS_LIGHT_LIMIT", 120)
ADAPTRAG_JOBS_HEAVY_LIMIT = _number("ADAPTRAG_JOBS_HEAVY_LIMIT", 6 * 3600)
ADAPTRAG_JOBS_HEARTBEAT = _number("ADAPTRAG_JOBS_HEARTBEAT", 5.0, env.float)
ADAPTRAG_JOBS_LOST_AFTER = _number("ADAPTRAG_JOBS_LOST_AFTER", 60.0, env.float)
ADAPTRAG_JOBS_GRACE = _number("ADAPTRAG_JOBS_GRACE", 10.0, env.float)  # from SIGTERM to SIGKILL
ADAPTRAG_JOBS_KEEP_DAYS = _number("ADAPTRAG_JOBS_KEEP_DAYS", 30)  # 0 keeps ended jobs for good
ADAPTRAG_JOBS_EAGER = _flag("ADAPTRAG_JOBS_EAGER", False)  # run jobs inside job_enqueue, without a queue

# `retry` counts from dequeue, waiting included, so it stays far above `timeout`; the work itself is guarded by the
# conditional claim of the job row, not by the broker. Each job's message carries its own timeout.
Q_CLUSTER = {
    "name": "default",
    "orm": "default",
    "workers": ADAPTRAG_QUEUE_WORKERS,
    "queue_limit": ADAPTRAG_QUEUE_WORKERS,
    "timeout": ADAPTRAG_JOBS_LIGHT_LIMIT,
    "retry": 7 * ADAPTRAG_JOBS_LIGHT_LIMIT + 60,
    "max_attempts": 1,
    "ack_failures": True,
    "catch_up": False,
    "save_limit": 250,
    "label": "Queue",
    "poll": 0.5,
    "ALT_CLUSTERS": {
        "long": {
            "workers": 1,
            "queue_limit": 1,
            "timeout": ADAPTRAG_JOBS_HEAVY_LIMIT,
            "retry": 3 * ADAPTRAG_JOBS_HEAVY_LIMIT + 7200,
            "max_attempts": 1,
            "ack_failures": True,
            "recycle": 1,
            "poll": 0.5,
        }
    },
}
