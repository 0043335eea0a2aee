"""backup and restore, as processes against whole data folders."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import socket
import tarfile
import time

import pytest

from tests.ops.site import Site

# Adds documents with their files, two rows a transaction, and deletes every third pair again, until it is killed.
WRITER = """
import hashlib, itertools, sys
from django.core.files.base import ContentFile
from django.db import transaction
from agents.models import Collection, Document
collection, _ = Collection.objects.get_or_create(name="default")
for number in itertools.count():
    data = str(number).encode() * 500
    pair = []
    with transaction.atomic():
        for half in "ab":
            document = Document(collection=collection, source=f"{number}{half}", content_type="text/plain",
                                size=len(data), sha256=hashlib.sha256(data).hexdigest())
            document.file.save(f"{number}{half}.txt", ContentFile(data), save=False)
            document.save()
            pair.append(document)
    if number % 3 == 0:
        with transaction.atomic():
            for document in pair:
                document.delete()
        for document in pair:
            document.file.storage.delete(document.file.name)
    if number == 20:
        print("busy", flush=True)
"""


def fill(site: Site) -> None:
    uploads = site.folder / "uploads" / "documents"
    uploads.mkdir(parents=True)
    (uploads / "a.txt").write_text("A document.")
    (site.folder / "indexes").mkdir()
    (site.folder / "indexes" / "vectors.bin").write_bytes(bytes(range(256)) * 100)
    for folder in ("run", "logs", "static", "models"):
        (site.folder / folder).mkdir(exist_ok=True)
        (site.folder / folder / "something").write_text("secret")
    (site.folder / "indexes" / ".2.new").mkdir()
    (site.folder / "indexes" / ".2.new" / "half").write_text("written aside")


@pytest.fixture(scope="module")
def intact(migrated, tmp_path_factory):
    """A backup of a filled site."""
    folder = tmp_path_factory.mktemp("intact")
    site = migrated.copy(folder / "var")
    fill(site)
    site.must("backup", folder / "b.tar.gz")
    return folder / "b.tar.gz"


def names(archive) -> set[str]:
    with tarfile.open(archive) as tar:
        return set(tar.getnames())


def test_a_backup_taken_while_a_process_writes_restores_to_matching_rows_and_files(site, tmp_path):
    writer = site.start(WRITER)
    try:
        assert writer.stdout.readline() == "busy\n"
        made = site.must("backup", tmp_path / "b.tar.gz")
        assert writer.poll() is None, "the writer has to outlive the backup"
    finally:
        writer.kill()
        writer.wait()
    assert made["counts"]["agents_document"] >= 20
    other = Site(tmp_path / "other")
    restored = other.must("restore", tmp_path / "b.tar.gz")
    assert restored["counts"] == made["counts"]
    assert other.rows("PRAGMA integrity_check") == [("ok",)]
    for table, count in made["counts"].items():
        assert other.rows(f'SELECT count(*) FROM "{table}"') == [(count,)]  # noqa: S608
    documents = other.rows("SELECT file, sha256 FROM agents_document")
    assert len(documents) % 2 == 0, "half of a transaction is in the backup"
    for file, digest in documents:
        assert hashlib.sha256((other.folder / "uploads" / file).read_bytes()).hexdigest() == digest
    assert made["warnings"] == []


def test_what_runs_and_what_can_be_made_again_stays_out(site, tmp_path):
    fill(site)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(site.folder / "indexes" / "s"))
        site.must("backup", tmp_path / "b.tar.gz")
    held = names(tmp_path / "b.tar.gz")
    assert {"data/uploads/documents/a.txt", "data/indexes/vectors.bin", "data/secret_key", "database/db.sqlite3"} < held
    assert not [name for name in held if name.split("/")[1:2] in (["run"], ["logs"], ["static"], ["models"])]
    assert not [name for name in held if name.endswith(("-wal", "-shm", "/s", "/half"))]
    site.must("backup", tmp_path / "with.tar.gz", "--models")
    assert "data/models/something" in names(tmp_path / "with.tar.gz")
    assert (tmp_path / "b.tar.gz").stat().st_mode & 0o077 == 0, "it holds password digests"
    assert not [entry for entry in site.folder.iterdir() if entry.name.startswith(".backup-")]


def test_a_backup_replaces_no_file_unless_told_to(site, tmp_path):
    target = tmp_path / "b.tar.gz"
    target.write_text("mine")
    done = site.manage("backup", target)
    assert (done.returncode, target.read_text()) == (1, "mine")
    assert "--force" in done.stderr
    site.must("backup", target, "--force")
    assert not list(tmp_path.glob("*.partial"))


def test_restore_refuses_an_occupied_folder_and_keeps_what_it_replaces(site, tmp_path):
    fill(site)
    site.must("backup", tmp_path / "b.tar.gz")
    (site.folder / "uploads" / "documents" / "a.txt").write_text("Changed since.")
    refused = site.manage("restore", tmp_path / "b.tar.gz")
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    assert (site.folder / "uploads" / "documents" / "a.txt").read_text() == "Changed since."
    restored = site.must("restore", tmp_path / "b.tar.gz", "--force")
    assert (site.folder / "uploads" / "documents" / "a.txt").read_text() == "A document."
    assert (site.folder / "models" / "something").exists(), "an archive without models leaves those that are there"
    aside = site.folder / restored["replaced"].rsplit("/", 1)[1]
    assert (aside / "uploads" / "documents" / "a.txt").read_text() == "Changed since."
    assert (aside / "db.sqlite3").exists()
    site.must("backup", tmp_path / "again.tar.gz")
    assert not [name for name in names(tmp_path / "again.tar.gz") if "replaced-" in name]


def test_restore_refuses_while_a_process_has_the_database_open(site, tmp_path):
    site.must("backup", tmp_path / "b.tar.gz")
    holder = site.start("""
import time
from django.db import connection
connection.ensure_connection()
print("open", flush=True)
time.sleep(60)
""")
    try:
        assert holder.stdout.readline() == "open\n"
        done = site.manage("restore", tmp_path / "b.tar.gz", "--force")
    finally:
        holder.kill()
        holder.wait()
    assert done.returncode == 1
    assert f"process {holder.pid}" in done.stderr


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no archive", "empty", "absent"])
def test_a_damaged_archive_changes_nothing(site, intact, tmp_path, damage):
    archive = tmp_path / "b.tar.gz"
    data = bytearray(intact.read_bytes())
    if damage == "truncated":
        data = data[: len(data) * 2 // 3]
    elif damage == "flipped":
        # Valid gzip and tar around one changed byte, which only the manifest's digest can tell.
        plain = bytearray(gzip.decompress(data))
        plain[plain.index(b"A document.")] ^= 1
        data = gzip.compress(plain)
    elif damage == "no archive":
        data = bytearray(b"PK\x03\x04 something else")
    elif damage == "empty":
        data = bytearray()
    if damage != "absent":
        archive.write_bytes(data)
    before = sorted(path.relative_to(site.folder) for path in site.folder.rglob("*"))
    done = site.manage("restore", archive, "--force")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "backup" in done.stderr or "no file" in done.stderr
    assert sorted(path.relative_to(site.folder) for path in site.folder.rglob("*")) == before


@pytest.mark.parametrize("name", ["../outside", "/adaptrag-outside", "data/../../outside"])
def test_an_archive_cannot_write_outside_the_data_folder(site, tmp_path, name):
    content = b"owned"
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    manifest = {
        "format": 1,
        "created_at": "2026-01-01T00:00:00+00:00",
        "engine": "sqlite",
        "database": "database/db.sqlite3",
        "counts": {},
        "migrations": [],
        "models": False,
        "files": {name: entry, "database/db.sqlite3": entry},
        "warnings": [],
    }
    archive = tmp_path / "evil.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for member, data in (("manifest.json", json.dumps(manifest).encode()), (name, content)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    before = {path for path in tmp_path.rglob("*") if "var" not in path.parts}
    done = site.manage("restore", archive, "--force")
    assert done.returncode == 1
    assert "lies outside" in done.stderr
    assert {path for path in tmp_path.rglob("*") if "var" not in path.parts} == before


def test_check_reads_the_archive_and_touches_nothing(site, intact):
    started = time.time()
    checked = site.must("restore", intact, "--check")
    assert (checked["restored"], checked["files"]) == (False, 4)
    assert not [path for path in site.folder.rglob("*") if path.is_file() and path.stat().st_mtime > started]


def test_a_backup_of_a_newer_version_is_refused(site, tmp_path):
    site.execute("INSERT INTO django_migrations (app, name, applied) VALUES ('agents', '9999_future', '2027-01-01')")
    site.must("backup", tmp_path / "b.tar.gz")
    done = Site(tmp_path / "other").manage("restore", tmp_path / "b.tar.gz")
    assert done.returncode == 1
    assert "agents.9999_future" in done.stderr


def test_a_lost_upload_is_named_and_does_not_prevent_the_backup(site, tmp_path):
    script = """
from agents.models import *
collection = Collection.objects.create(name="default")
Document.objects.create(collection=collection, source="x", content_type="text/plain", size=1, file="documents/gone.txt")
"""
    assert site.start(script).wait() == 0
    made = site.must("backup", tmp_path / "b.tar.gz")
    assert made["warnings"] == ["uploads/documents/gone.txt: named by a row, but not in the data folder"]
