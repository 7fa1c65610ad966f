"""ChatFormatView: chats as the tokens that a model sees, which of them it is trained on, and how they are packed into rows."""

from course_lib.widgets.chat_format_view.widget import ChatFormatView

__all__ = ["ChatFormatView"]
