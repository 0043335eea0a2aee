"""Errors of the operator's commands."""

from __future__ import annotations

from adaptrag.common.errors import AdaptRAGError


class BackupFailed(AdaptRAGError):
    code = "backup_failed"


class ArchiveDamaged(AdaptRAGError):
    """The file is no backup, or not the one that was written."""

    code = "archive_damaged"


class RestoreRefused(AdaptRAGError):
    """Restoring here would overwrite something, or could not work."""

    code = "restore_refused"


class DemoFailed(AdaptRAGError):
    code = "demo_failed"
