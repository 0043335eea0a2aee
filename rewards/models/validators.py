"""Bounds that several tables share."""

from django.core.validators import MaxValueValidator, MinValueValidator

UNIT = [MinValueValidator(0.0), MaxValueValidator(1.0)]
