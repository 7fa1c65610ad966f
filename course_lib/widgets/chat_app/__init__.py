"""ChatApp: a conversation with a model, its branches and its memory, and what each reply took."""

from course_lib.widgets.chat_app.widget import ChatApp

__all__ = ["ChatApp"]
