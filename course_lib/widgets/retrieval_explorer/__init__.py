"""RetrievalExplorer: which chunks a query finds, by words, by meaning and by both, and what is answered from them."""

from course_lib.widgets.retrieval_explorer.widget import RetrievalExplorer

__all__ = ["RetrievalExplorer"]
