"""Rotation: changes of application keys (service), what may be seen of them (inspection), the job that carries a change
through (job) and its passes over stored rows (passes).
"""

from app.services.rotation.inspection import Dependents, KeyInspection, KeyStatus, Plan
from app.services.rotation.job import RotationJob
from app.services.rotation.passes import RotationPasses
from app.services.rotation.service import LEEWAY, RotationService

__all__ = [
    "LEEWAY",
    "Dependents",
    "KeyInspection",
    "KeyStatus",
    "Plan",
    "RotationJob",
    "RotationPasses",
    "RotationService",
]
