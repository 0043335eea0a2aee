"""Images, alone and in documents: opened within limits, read, described, found."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from agents import services
from agents.errors import ChatModelUnavailable, DocumentRejected
from agents.ingestion.base import DOCX, PDF, PNG, PPTX, Limits
from agents.ingestion.parse import parse
from agents.llm.base import Message
from agents.llm.factory import chat_model
from agents.models import Document, DocumentImage
from agents.retrieval.search import retrieve
from agents.services.images import image_url
from agents.strategies import STRATEGIES
from agents.strategies.base import AgentRequest, Tools
from tests.agents import sample_files
from tests.agents.doubles import Replies
from tests.agents.faulty_server import answer, failing, serving

LIMITS = Limits(
    bytes=10_000_000, pages=5, expanded_bytes=20_000_000, characters=1_000_000, seconds=60, memory_bytes=1_000_000_000,
    pixels=2_000_000, images=2,
)  # fmt: skip
PICTURE = sample_files.image("PNG", "Fees 2026")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_an_image_is_kept_upright_as_jpeg_of_bounded_size(form, tmp_path):
    out = io.BytesIO()
    Image.new("RGBA" if form != "JPEG" else "RGB", (3000, 500), (255, 0, 0) if form == "JPEG" else (255, 0, 0, 0)).save(
        out, form
    )
    limits = Limits(**{**{name: getattr(LIMITS, name) for name in Limits.__dataclass_fields__}, "pixels": 3_000_000})
    (picture,) = parse("photo", out.getvalue(), f"image/{form.lower()}", limits, tmp_path).pictures
    assert (picture.width, picture.height, picture.content_type) == (2400, 400, "image/jpeg")
    with Image.open(tmp_path / picture.file) as kept:
        assert (kept.format, kept.size) == ("JPEG", (2400, 400))
        # What was transparent stands on white.
        assert kept.getpixel((5, 5))[1] > 240 or form == "JPEG"


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("scan.pdf", sample_files.pdf_with_image(PICTURE), PDF),
        ("report.docx", sample_files.docx_with_image(PICTURE), DOCX),
        ("deck.pptx", sample_files.pptx(("Fees", "See the picture."), picture=PICTURE), PPTX),
    ],
    ids=["pdf", "docx", "pptx"],
)
def test_images_inside_documents_are_found_at_their_place(name, data, kind, tmp_path):
    parsed = parse(name, data, kind, LIMITS, tmp_path)
    (picture,) = parsed.pictures
    assert (picture.page, picture.slide) == {PDF: (1, None), DOCX: (None, None), PPTX: (None, 1)}[kind]
    assert (tmp_path / picture.file).is_file()
    if kind == DOCX:
        assert parsed.text[: picture.start].strip().endswith("See the picture.")


def test_small_repeated_and_surplus_images_are_left_out(tmp_path):
    from docx import Document as Word

    document = Word()
    for picture in (PICTURE, PICTURE, sample_files.image("PNG", size=(20, 20)), sample_files.image("PNG", "Two"),
                    sample_files.image("PNG", "Three"), sample_files.image("PNG", "Large", size=(3000, 1000))):  # fmt: skip
        document.add_picture(io.BytesIO(picture))
    document.add_paragraph("Text.")
    out = io.BytesIO()
    document.save(out)
    parsed = parse("many.docx", out.getvalue(), DOCX, LIMITS, tmp_path)
    assert len(parsed.pictures) == 2
    assert parsed.metadata == {"images": 2, "images_left_out": 2}


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("bomb.png", sample_files.image_bomb(60_000, 60_000), "60,000 x 60,000 pixels; at most 2,000,000"),
        ("lying.png", sample_files.image_bomb(1000, 1500), "truncated or damaged"),
        ("cut.png", PICTURE[:-200], "truncated or damaged"),
        ("head.png", PICTURE[:20], "truncated or damaged"),
    ],
)
def test_a_bad_image_is_rejected_with_its_reason(name, data, words, tmp_path):
    with pytest.raises(DocumentRejected) as caught:
        parse(name, data, PNG, LIMITS, tmp_path)
    assert caught.value.message.startswith(name)
    assert words in caught.value.message


def test_slides_become_text_with_tables_and_notes():
    from pptx import Presentation
    from pptx.util import Inches

    presentation = Presentation(io.BytesIO(sample_files.pptx(("Harbour", "Fees\nShips"), ("Ferries", "Six"), notes="Say it.")))
    table = presentation.slides[1].shapes.add_table(2, 2, 0, 0, Inches(4), Inches(1)).table
    for place, text in enumerate(("Ship", "Fee", "Anna", "12")):
        table.cell(place // 2, place % 2).text = text
    out = io.BytesIO()
    presentation.save(out)
    parsed = parse("deck.pptx", out.getvalue(), PPTX, LIMITS)
    assert "# Harbour\n\nFees\nShips\n" in parsed.text
    assert "Ship | Fee\nAnna | 12\n" in parsed.text
    assert "Notes: Say it." in parsed.text
    slides = {mark.level: parsed.text[mark.start :] for mark in parsed.marks if mark.kind == "slide"}
    assert slides[2].startswith("# Ferries")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("cut.pptx", sample_files.pptx(("A", "B"))[:-100], "truncated or damaged"),
        ("bomb.pptx", sample_files.zip_bomb(50_000_000), "expands to"),
        ("long.pptx", sample_files.pptx(*[("A", "B")] * 6), "6 slides; at most 5"),
        ("empty.pptx", sample_files.pptx(), "no text in it"),
    ],
)
def test_a_bad_presentation_is_rejected_with_its_reason(name, data, words):
    with pytest.raises(DocumentRejected) as caught:
        parse(name, data, PPTX, LIMITS)
    assert words in caught.value.message


@pytest.mark.django_db(transaction=True)
class TestStored:
    @pytest.fixture(autouse=True)
    def own_uploads(self, settings, tmp_path):
        settings.MEDIA_ROOT = tmp_path / "uploads"
        settings.ADAPTRAG_JOBS_EAGER = True

    @pytest.fixture
    def collection(self):
        return services.collection_get_or_create("harbour")

    @pytest.fixture
    def vision(self, settings):
        settings.ADAPTRAG_OCR, settings.ADAPTRAG_JOBS_EAGER = False, True
        with serving() as server:
            server.behaviours = [answer("A bar chart of harbour fees, highest in July.")]
            settings.ADAPTRAG_VISION_MODEL = "sees-1"
            settings.ADAPTRAG_VISION_OPTIONS = {"base_url": server.url, "timeout": 20, "max_retries": 0}
            yield server

    def files(self, settings) -> list[Path]:
        return sorted(path for path in (Path(settings.MEDIA_ROOT) / "images").rglob("*") if path.is_file())

    @pytest.mark.slow
    def test_text_in_an_image_is_read_and_found(self, collection, settings):
        data = sample_files.docx_with_image(sample_files.image("PNG", "Mooring costs 4711 crowns", "paid before noon"))
        document = services.document_add(collection=collection, name="notice.docx", data=data).document
        (image,) = document.images.all()
        assert image.text == "Mooring costs 4711 crowns\npaid before noon"
        (passage,) = retrieve(collection, "4711", 1, "bm25")
        assert (passage.kind, passage.image_id, passage.place) == ("image", image.pk, {"image": 1})
        assert "ocr" not in document.metadata
        services.document_delete(document)
        assert (self.files(settings), DocumentImage.objects.count()) == ([], 0)

    def test_reading_that_is_stopped_is_told_and_costs_nothing_else(self, collection, settings):
        settings.ADAPTRAG_OCR_MEMORY_BYTES = 50_000_000
        data = sample_files.docx_with_image(PICTURE)
        document = services.document_add(collection=collection, name="notice.docx", data=data).document
        assert document.metadata["ocr"].startswith("0 of 1 images read: ")
        assert document.state == Document.State.READY

    @pytest.mark.parametrize(
        ("name", "data", "later"),
        [
            ("photo.png", PICTURE, True),
            ("scan.pdf", sample_files.pdf_with_image(PICTURE), True),
            ("report.docx", sample_files.docx_with_image(PICTURE), True),
            ("deck.pptx", sample_files.pptx(("Fees", "See."), picture=PICTURE), True),
            ("text.pdf", sample_files.pdf("Only text."), False),
            ("text.docx", sample_files.docx(("Normal", "Only text.")), False),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_holds_images_is_read_by_a_job(self, collection, settings, name, data, later):
        settings.ADAPTRAG_JOBS_EAGER = False
        result = services.document_add(collection=collection, name=name, data=data)
        assert (result.job is not None and result.job.kind == "ingest") is later
        assert result.document.state == (Document.State.PENDING if later else Document.State.READY)

    def test_a_vision_model_describes_images_and_its_words_are_found(self, collection, vision, settings):
        services.document_add(collection=collection, name="chart.png", data=PICTURE)
        (request,) = vision.requests
        text, image = request["messages"][0]["content"]
        assert (request["model"], text["type"]) == ("sees-1", "text")
        sent = base64.b64decode(image["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
        assert Image.open(io.BytesIO(sent)).size == (700, 260)
        (passage,) = retrieve(collection, "fees in July", 1, "bm25")
        assert passage.text == "A bar chart of harbour fees, highest in July."
        assert DocumentImage.objects.get(pk=passage.image_id).description == passage.text
        assert len(self.files(settings)) == 1
        vision.behaviours = [answer("Another chart.")]
        services.document_add(collection=collection, name="chart.png", data=sample_files.image("PNG", "New"))
        assert len(self.files(settings)) == 1

    def test_a_vision_model_that_fails_leaves_the_text_and_a_note(self, collection, vision):
        vision.behaviours = [failing(500)]
        services.document_add(collection=collection, name="r.docx", data=sample_files.docx_with_image(PICTURE))
        document = Document.objects.get()
        assert document.state == Document.State.READY
        assert document.metadata["vision"].startswith("0 of 1 images described: The chat model 'sees-1'")

    def test_an_image_that_says_nothing_is_refused_with_the_remedy(self, collection, settings):
        settings.ADAPTRAG_OCR = False
        with pytest.raises(DocumentRejected, match="ADAPTRAG_VISION_MODEL"):
            services.document_add(collection=collection, name="photo.png", data=PICTURE)
        assert self.files(settings) == []

    def test_an_agent_that_looks_sends_the_image_itself(self, collection, vision):
        services.document_add(collection=collection, name="chart.png", data=PICTURE)
        services.document_add(collection=collection, name="ferries.md", data=b"# Ferries\n\nFerries leave at six.")
        variant = services.agent_register(
            name="eyes", strategy="multimodal_rag", chat_backend="openai_compatible", chat_model="sees-1",
            chat_options={"base_url": vision.url, "max_retries": 0}, parameters={"look": True, "near": 0.0},
        )  # fmt: skip
        vision.behaviours = [answer("July.")]
        found = services.agent_answer(variant, AgentRequest(question="When are the fees highest?", collection=collection))
        assert found.text == "July."
        parts = vision.requests[-1]["messages"][-1]["content"]
        assert [part["type"] for part in parts] == ["text", "image_url"]
        assert [step["step"] for step in found.trace] == ["retrieve", "image", "chat"]
        image = DocumentImage.objects.get()
        assert image.pk in [source["image_id"] for source in found.sources if source["used"]]

    def test_an_image_of_another_collection_is_not_there(self, collection, vision):
        services.document_add(collection=collection, name="chart.png", data=PICTURE)
        with pytest.raises(Exception, match="has no image"):
            image_url(services.collection_get_or_create("other"), DocumentImage.objects.get().pk)


def test_the_local_model_says_that_it_cant_see():
    with pytest.raises(ChatModelUnavailable, match="can't see images"):
        chat_model("local", "", {}).complete([Message(role="user", content="?", images=("data:image/png;base64,",))])


class TestMultimodal:
    def run(self, scores, **parameters):
        """scores: (score, image id or None) by rank."""
        from agents.models import Collection
        from agents.retrieval.base import Passage

        def found(collection, query, k, method, **_):
            return [
                Passage(
                    chunk_id=rank, document_id=1, document="d", text=f"passage {rank}.", score=score, rank=rank,
                    retriever=method, image_id=image, kind="image" if image else "text",
                )
                for rank, (score, image) in enumerate(scores, 1)
            ]  # fmt: skip

        where = Collection(name="harbour")
        tools = Tools(collection=where, chat=Replies("Yes."), retrieve=found)
        strategy = STRATEGIES["multimodal_rag"](STRATEGIES["multimodal_rag"].Parameters.from_dict(parameters))
        return strategy.answer(AgentRequest(question="What?", collection=where, top_k=3), tools)

    def test_an_image_near_enough_has_its_place_in_the_prompt(self):
        draft = self.run([(5, None), (4, None), (4, None), (3.5, None), (3, 7)], prompt_passages=2)
        assert [passage.chunk_id for passage in draft.used] == [1, 5]
        assert {passage.chunk_id for passage in draft.used} <= {passage.chunk_id for passage in draft.passages}

    def test_one_that_is_far_off_has_not(self):
        draft = self.run([(5, None), (4, None), (1, 7)], prompt_passages=2)
        assert [passage.chunk_id for passage in draft.used] == [1, 2]

    def test_an_image_counts_once(self):
        draft = self.run([(5, 7), (4.9, 7), (4, 8), (3.9, None)], prompt_passages=3, images=2)
        assert [passage.chunk_id for passage in draft.used] == [1, 2, 3]
