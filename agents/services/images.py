"""Images of documents as strategies ask for them."""

from __future__ import annotations

from adaptrag.common.errors import NotFound
from agents.llm.vision import data_url
from agents.models import Collection, DocumentImage
from agents.selectors import image_path


def image_url(collection: Collection, image_id: int) -> str:
    """A data URL of an image of the collection. Raises NotFound for one of another collection or without a file."""
    image = DocumentImage.objects.filter(pk=image_id, document__collection=collection).first()
    if image is None:
        raise NotFound(f"The collection {collection.name!r} has no image {image_id}.", image=image_id)
    return data_url(image_path(image).read_bytes(), image.content_type)
