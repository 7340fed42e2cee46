"""MiniBabel: parallel tasks in invented languages whose relatedness is known.

A small world (who does what to whom, where, and what one thinks of it) yields *meanings*; a language puts a
meaning into words by its lexicon and grammar (`languages.py`). Labels depend on roles, on the scope of negation
and on which clause is the main one, so that a bag of words does not solve the tasks.

Example `i` of a task depends on (task, seed, difficulty, i) alone – for `reviews` and `mlm`, which are not
parallel, on the language too – so that any number of examples can be drawn, in any order, on any platform.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pandas as pd

from xsub_utils._internal.validation import one_of, whole
from xsub_utils.data.minibabel.grammar import Clause, Noun, Speaker, text
from xsub_utils.data.minibabel.languages import CONCEPTS, LANGUAGES, Language

PARALLEL = ("nli", "paraphrase", "ner", "parallel")  # tasks whose example i means the same in every language
FIRST_NAMES = 16
HARDEST = CONCEPTS["animate"] - 3  # a harder text has more participants than there are words for
NAMES = {"PER": range(0, 8), "ORG": range(8, 16), "LOC": range(16, 24), "any": range(24, 40)}
POLARITY = {  # judgement concept -> stars above or below the middle
    f"judgement{i}": (-2, -2, -1, -1, 1, 1, 2, 2)[i] for i in range(CONCEPTS["judgement"])
}


# --- the world: how meanings are drawn --------------------------------------------------------------------


def _patient(event: Clause) -> Noun:
    """Who an event happens to; only judgements have a word in that place."""
    assert isinstance(event.patient, Noun)
    return event.patient


def _pick(rng: Random, kind: str, but: Sequence[str] = ()) -> str:
    while True:
        concept = f"{kind}{rng.randrange(CONCEPTS[kind])}"
        if concept not in but:
            return concept


def _participant(rng: Random, detail: float, but: Sequence[str] = ()) -> Noun:
    adjective = _pick(rng, "adjective") if rng.random() < detail else None
    return Noun(_pick(rng, "animate", but), adjective)


def _event(rng: Random, detail: float, but: Sequence[str] = ()) -> Clause:
    """Somebody does something to somebody else; `detail` is the chance of each adjective and of a place."""
    agent = _participant(rng, detail, but)
    patient = _participant(rng, detail, [*but, agent.concept])
    place = Noun(_pick(rng, "place")) if rng.random() < detail else None
    return Clause(_pick(rng, "verb"), agent, patient, place)


def _events(rng: Random, difficulty: int) -> list[Clause]:
    """One to three events with different participants; some are negated."""
    count = 1 + (difficulty + rng.randrange(2)) // 2
    detail = min(0.15 * difficulty, 0.6)
    events: list[Clause] = []
    for _ in range(count):
        used = [noun.concept for e in events for noun in (e.agent, _patient(e))]
        events.append(replace(_event(rng, detail, used), negated=rng.random() < 0.4))
    return events


def _plain(clause: Clause) -> Clause:
    """What still holds if the whole does: an affirmed clause without its adjectives and its place."""
    if clause.negated:
        return clause
    agent, patient = replace(clause.agent, adjective=None), replace(_patient(clause), adjective=None)
    return replace(clause, agent=agent, patient=patient, place=None)


def _swap_roles(clause: Clause) -> Clause:
    return replace(clause, agent=_patient(clause), patient=clause.agent)


def _name(rng: Random, entity: str, difficulty: int) -> Noun:
    """A name of one or two words; at difficulty 1, two in three could stand for any kind of entity."""
    pool = "any" if rng.random() < min(difficulty * 2 / 3, 1) else entity
    last = f"last{rng.choice(NAMES[pool])}"
    return Noun(f"first{rng.randrange(FIRST_NAMES)}+{last}" if rng.random() < 0.4 else last, entity=entity)


# --- the tasks: from a meaning to columns ------------------------------------------------------------------


def _nli(rng: Random, difficulty: int) -> tuple[list[Clause], Clause, int]:
    """Premise, hypothesis and label: 0 entailed, 1 neutral, 2 contradicted."""
    premise = _events(rng, difficulty)
    about = _weakened(rng, rng.choice(premise))
    label = rng.randrange(3)
    if label == 2:
        about = replace(about, negated=not about.negated)
    elif label == 1:
        about = replace(_stranger(rng, about, premise), negated=rng.random() < 0.4)
    return premise, about, label


def _weakened(rng: Random, clause: Clause) -> Clause:
    """A clause that holds if the given one does: an affirmed clause may lose any of its details."""
    if clause.negated:
        return clause
    agent, patient = (
        replace(noun, adjective=noun.adjective if rng.random() < 0.5 else None)
        for noun in (clause.agent, _patient(clause))
    )
    return replace(clause, agent=agent, patient=patient, place=clause.place if rng.random() < 0.5 else None)


def _stranger(rng: Random, about: Clause, premise: Sequence[Clause]) -> Clause:
    """A clause in words of the premise that the premise says nothing about."""
    others = [e for e in premise if e.verb != about.verb]
    if others and rng.random() < 0.5:
        return replace(about, patient=replace(_patient(others[0]), adjective=_patient(about).adjective))
    return _swap_roles(about)


def _nli_row(speaker: Speaker, rng: Random, difficulty: int) -> dict:
    premise, hypothesis, label = _nli(rng, difficulty)
    return {
        "text": text(speaker.sentence(premise)),
        "text_pair": text(speaker.clause(hypothesis)),
        "label": label,
    }


def _other_meaning(rng: Random, events: list[Clause]) -> list[Clause]:
    """The same words, another meaning: roles swapped, or verbs or negations exchanged between clauses."""
    if len(events) > 1 and rng.random() < 0.5:
        first, second = events[:2]
        if first.negated != second.negated:
            changed = [replace(e, negated=not e.negated) for e in (first, second)]
        elif first.verb != second.verb:
            changed = [replace(first, verb=second.verb), replace(second, verb=first.verb)]
        else:
            changed = [_swap_roles(first), second]
        return changed + events[2:]
    i = rng.randrange(len(events))
    return [_swap_roles(e) if k == i else e for k, e in enumerate(events)]


def _rearranged(rng: Random, events: list[Clause]) -> list[Clause]:
    """The same meaning in another arrangement: clauses in another order, or places in front."""
    while True:
        other = [
            replace(e, fronted=e.place is not None and rng.random() < 0.5) for e in rng.sample(events, len(events))
        ]
        if other != events:
            return other


def _paraphrase_row(speaker: Speaker, rng: Random, difficulty: int) -> dict:
    """Sentences in the same words, always arranged differently: equal strings would give the label away."""
    events = _events(rng, max(difficulty, 1))
    while len(events) == 1 and not events[0].place:
        events = _events(rng, max(difficulty, 1))
    label = rng.randrange(2)
    other = _rearranged(rng, events if label else _other_meaning(rng, events))
    return {"text": text(speaker.sentence(events)), "text_pair": text(speaker.sentence(other)), "label": label}


def _judgement(rng: Random, detail: float, but: Sequence[str] = ()) -> tuple[Clause, int]:
    """A clause that judges a thing, and the stars it is worth: negation turns and softens a judgement."""
    adjective = _pick(rng, "adjective") if rng.random() < detail else None
    place = Noun(_pick(rng, "place")) if rng.random() < detail else None
    judgement, negated = _pick(rng, "judgement"), rng.random() < 0.4
    value = POLARITY[judgement]
    worth = (-1 if value > 0 else 1) if negated else value
    subject = Noun(_pick(rng, "thing", but), adjective)
    return Clause("is", subject, judgement, place, negated=negated), worth


def _stars(main: int, concession: int) -> int:
    """Stars 1 to 5: the main clause decides; a strong "although" takes the edge off mild praise."""
    return 3 + main - (main == 1 and concession == -2)


def _reviews_row(speaker: Speaker, rng: Random, difficulty: int) -> dict:
    detail = min(0.2 + 0.2 * difficulty, 0.8)
    main, worth = _judgement(rng, detail)
    if rng.random() >= min(0.5 + 0.25 * difficulty, 1):
        return {"text": text(speaker.clause(main)), "label": int(_stars(worth, 0) > 3)}
    side, side_worth = _judgement(rng, detail, [main.agent.concept])
    words = speaker.concession(main, side, first=rng.random() < 0.5)
    return {"text": text(words), "label": int(_stars(worth, side_worth) > 3)}


VERBS_OF_PEOPLE, VERBS_OF_WORK = (
    range(0, 9),
    range(9, 18),
)  # somebody meets somebody; somebody works for a firm


def _entity_clause(rng: Random, difficulty: int) -> Clause:
    """A clause whose names are people, firms or places by the role they play beside the verb."""
    work = rng.random() < 0.5
    verb = f"verb{rng.choice(VERBS_OF_WORK if work else VERBS_OF_PEOPLE)}"
    agent = _name(rng, "PER", difficulty) if rng.random() < 0.7 else _participant(rng, 0.3)
    goal = _name(rng, "ORG" if work else "PER", difficulty) if rng.random() < 0.7 else None
    place = _name(rng, "LOC", difficulty) if rng.random() < 0.7 else Noun(_pick(rng, "place"))
    patient = goal or _participant(rng, 0.3, [agent.concept])
    return Clause(verb, agent, patient, place if rng.random() < 0.7 else None, fronted=rng.random() < 0.3)


NER_LABELS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")


def _ner_row(speaker: Speaker, rng: Random, difficulty: int) -> dict:
    clauses = [_entity_clause(rng, difficulty) for _ in range(1 + (difficulty + rng.randrange(2)) // 2)]
    words = speaker.sentence(clauses)
    return {"tokens": [w for w, _ in words], "labels": [NER_LABELS.index(tag) for _, tag in words]}


def story(speaker: Speaker, rng: Random, difficulty: int = 1) -> tuple[str, str]:
    """Two sentences of one text: events or opinions, then a remark that is true of them."""
    kind = rng.random()
    if kind < 0.2:
        clauses = [_entity_clause(rng, difficulty)]
        return text(speaker.sentence(clauses)), text(speaker.clause(replace(clauses[0], place=None)))
    if kind < 0.4:
        (main, _), (side, _) = _judgement(rng, 0.3), _judgement(rng, 0.3)
        return text(speaker.concession(main, side, first=rng.random() < 0.5)), text(speaker.clause(main))
    events = _events(rng, difficulty + 1)
    remark = [_plain(rng.choice(events))] if rng.random() < 0.6 else rng.sample(events, len(events))
    return text(speaker.sentence(events)), text(speaker.sentence(remark))


def stories(
    language: str, ids: Sequence[int], *, seed: int = 0, languages: tuple[Language, ...] = LANGUAGES
) -> list[tuple[str, str]]:
    """Texts of two sentences to pre-train on; the second says something that is true of the first."""
    speaker = Speaker(language, seed, languages)
    return [story(speaker, Random(f"story/{seed}/{language}/{i}")) for i in ids]


def _text_row(speaker: Speaker, rng: Random, difficulty: int) -> dict:
    return {"text": " ".join(story(speaker, rng, difficulty))}


ROWS: dict[str, Callable[[Speaker, Random, int], dict]] = {
    "nli": _nli_row,
    "paraphrase": _paraphrase_row,
    "reviews": _reviews_row,
    "ner": _ner_row,
    "mlm": _text_row,
    "parallel": _text_row,
}


def examples(
    task: str,
    language: str,
    ids: Sequence[int],
    *,
    seed: int = 0,
    difficulty: int = 1,
    languages: tuple[Language, ...] = LANGUAGES,
) -> pd.DataFrame:
    """Examples of a task in one language.

    Args:
        task: "nli", "paraphrase", "reviews", "ner", "mlm" or "parallel".
        language: Code of a language in `languages`.
        ids: Numbers of the examples wanted; equal numbers give equal examples.
        seed: Seed of the lexicons and of the meanings.
        difficulty: 0 (one clause, no adjuncts) to 21: more clauses, more distractors, more ambiguous names.
        languages: The languages that exist; add your own to `LANGUAGES`.

    Returns:
        One row an example: id, language, and the columns of the task (text, text_pair, label or tokens, labels).

    Raises:
        TypeError: If seed or difficulty is no whole number.
        ValueError: If the task or the language is unknown, or the difficulty is negative or too large.
    """
    one_of("task", task, ROWS)
    whole("difficulty", difficulty, 0, HARDEST)
    whole("seed", seed)
    speaker = Speaker(language, seed, languages)
    own = "" if task in PARALLEL else f"{language}-"
    rows = []
    for i in ids:
        rng = Random(f"{task}/{seed}/{difficulty}/{own}{i}")
        rows.append({"id": f"{task}-{own}{i}", "language": language} | ROWS[task](speaker, rng, difficulty))
    return pd.DataFrame(rows)
