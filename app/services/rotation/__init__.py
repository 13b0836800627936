"""Rotation: changes of application keys (service), what may be seen of them (inspection), the job that carries a change
through (job), its passes over stored rows (passes), and the view of such a job (watching).
"""

from app.services.rotation.inspection import Dependents, KeyInspection, KeyStatus, Plan
from app.services.rotation.job import RotationJob
from app.services.rotation.passes import RotationPasses
from app.services.rotation.service import LEEWAY, RotationService
from app.services.rotation.watching import RotationView, RotationWatch, StepState

__all__ = [
    "LEEWAY",
    "Dependents",
    "KeyInspection",
    "KeyStatus",
    "Plan",
    "RotationJob",
    "RotationPasses",
    "RotationService",
    "RotationView",
    "RotationWatch",
    "StepState",
]
