"""RLHFDashboard: a policy while it learns from a reward, on a leash that can be moved meanwhile."""

from course_lib.widgets.rlhf_dashboard.widget import RLHFDashboard

__all__ = ["RLHFDashboard"]
