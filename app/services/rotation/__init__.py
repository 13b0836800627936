"""Rotation: what may be asked of application keys (service), and the job that carries it through (course)."""

from app.services.rotation.service import RotationService
from app.services.rotation.values import Dependents, KeyStanding, Plan

__all__ = ["Dependents", "KeyStanding", "Plan", "RotationService"]
