"""Data: tasks in several languages, from invented ones (`minibabel`), the hub or local files."""

from xsub_utils.data.columns import TASKS, TaskSpec
from xsub_utils.data.splits import SPLITS
from xsub_utils.data.tasks import SIZES, Task, load_task
from xsub_utils.data.text2text import text_to_text

__all__ = ["SIZES", "SPLITS", "TASKS", "Task", "TaskSpec", "load_task", "text_to_text"]
