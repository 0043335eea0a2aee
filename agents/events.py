"""What this app tells those above it, which it may not import."""

from __future__ import annotations

from django.dispatch import Signal

# Sent by the services inside the transaction that changes by hand which agents answer, `variant` being the one; a receiver that
# raises takes the change back.
answering_changed = Signal()
