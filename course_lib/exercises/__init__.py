"""The exercises of every lesson: stub, solution, check, hints, and the mistakes that are known by what they do.

- `registry`: what an exercise is, and how an answer is checked
- `compare`: the first difference between an answer and what was wanted
- `real_model`: SmolLM2 with a memory, for the questions of the kind *what if*
- `lesson_01`, `lesson_02`, `lesson_03`, `lesson_04`, `lesson_05`, `lesson_06`, `lesson_07`: a file an exercise, named after
  its kind (trace, repair, write, build, what if)
"""

from course_lib.exercises import lesson_01, lesson_02, lesson_03, lesson_04, lesson_05, lesson_06, lesson_07
from course_lib.exercises.registry import Exercise, Mistake, Outcome

__all__ = ["EXERCISES", "Exercise", "Mistake", "Outcome", "find"]

EXERCISES = {
    exercise.id: exercise
    for lesson in (lesson_01, lesson_02, lesson_03, lesson_04, lesson_05, lesson_06, lesson_07)
    for exercise in lesson.EXERCISES
}
"""Exercise id -> exercise, in the order of the course."""


def find(exercise_id: str) -> Exercise:
    """Return the exercise with the id `exercise_id`, such as "01.3"; ValueError if there is none."""
    if exercise_id not in EXERCISES:
        raise ValueError(f"there is no exercise {exercise_id!r}; there are {', '.join(EXERCISES)}")
    return EXERCISES[exercise_id]
