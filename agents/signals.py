"""What goes when a document, a collection or an artifact is deleted, whichever way: a service, the admin, a cascade."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Model, QuerySet
from django.db.models.signals import post_delete
from django.dispatch import receiver

from agents.llm.builds import ARTIFACTS
from agents.models import Collection, Document, DocumentImage, ModelArtifact, Tombstone
from agents.services.collections import remove_collection_files
from agents.services.storing import content_changed, remove_files


@receiver(post_delete, sender=Document)
def document_deleted(sender: type[Document], instance: Document, origin: Model | QuerySet, **_: Any) -> None:
    """Hide the document from the index that serves, in the transaction that deletes it; its files go on commit."""
    remove_files({instance.file.name, instance.incoming.name, instance.tables_file.name} - {"", None})
    if _model(origin) is Collection:  # the index goes too
        return
    content_changed(instance.collection_id)
    # After the counting, which holds the collection's row: a build can't be put in place between this look and the commit.
    build_id = Collection.objects.filter(pk=instance.collection_id).values_list("current_build_id", flat=True).first()
    if build_id is not None:
        Tombstone.objects.create(build_id=build_id, document_id=instance.pk)


@receiver(post_delete, sender=DocumentImage)
def image_deleted(sender: type[DocumentImage], instance: DocumentImage, **_: Any) -> None:
    remove_files({instance.file.name})


@receiver(post_delete, sender=Collection)
def collection_deleted(sender: type[Collection], instance: Collection, **_: Any) -> None:
    transaction.on_commit(functools.partial(remove_collection_files, instance.pk), robust=True)


@receiver(post_delete, sender=ModelArtifact)
def artifact_deleted(sender: type[ModelArtifact], instance: ModelArtifact, **_: Any) -> None:
    """Its files go with it; while an agent or a run refers to it, the row can't be deleted at all."""
    if instance.folder.parent == Path(settings.DATA_DIR) / ARTIFACTS:
        transaction.on_commit(functools.partial(shutil.rmtree, instance.folder, ignore_errors=True), robust=True)


def _model(origin: Model | QuerySet) -> type[Model]:
    return origin.model if isinstance(origin, QuerySet) else type(origin)
