"""TrainingDashboard: a training run as it happens, with buttons that pause and stop it."""

from course_lib.widgets.training_dashboard.widget import TrainingDashboard

__all__ = ["TrainingDashboard"]
