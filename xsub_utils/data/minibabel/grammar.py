"""From meanings to words: a speaker of an invented language puts clauses into its lexicon and grammar."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from xsub_utils.data.minibabel.languages import Language, by_code, lexicon, write


@dataclass(frozen=True)
class Noun:
    """A participant: a concept or a name (several words), perhaps with an adjective, perhaps an entity."""

    concept: str
    adjective: str | None = None
    entity: str | None = None


@dataclass(frozen=True)
class Clause:
    """Who does what to whom, where; `verb="is"` makes a judgement of the agent."""

    verb: str
    agent: Noun
    patient: Noun | str
    place: Noun | None = None
    negated: bool = False
    fronted: bool = False  # the place comes first


Words = list[tuple[str, str]]  # word and its BIO tag


class Speaker:
    """Puts meanings into the words of one language."""

    def __init__(self, code: str, seed: int, languages: tuple[Language, ...]):
        self.words = lexicon(code, seed, languages)
        self.grammar = by_code(languages)[code]
        self.seed = seed

    def say(self, concept: str) -> Words:
        return [(self.words[concept], "O")]

    def name(self, noun: Noun) -> Words:
        """A name: the same sounds in every language, in the script of this one."""
        parts = [write(_name_sounds(part, self.seed), self.grammar.script) for part in noun.concept.split("+")]
        tags = [f"B-{noun.entity}", *[f"I-{noun.entity}"] * (len(parts) - 1)]
        return list(zip(parts, tags, strict=True))

    def noun(self, noun: Noun) -> Words:
        if noun.entity:
            return self.name(noun)
        head = self.say(noun.concept)
        if noun.adjective is None:
            return head
        adjective = self.say(noun.adjective)
        return adjective + head if self.grammar.adjective_first else head + adjective

    def place(self, noun: Noun) -> Words:
        adposition, phrase = self.say("in"), self.noun(noun)
        return adposition + phrase if self.grammar.prepositions else phrase + adposition

    def clause(self, clause: Clause) -> Words:
        """Subject, verb and object in the language's order, with its negation, case marker and place."""
        grammar = self.grammar
        subject, verb = self.noun(clause.agent), self.say(clause.verb)
        if isinstance(clause.patient, Noun):
            goal = self.noun(clause.patient) + (self.say("OBJ") if grammar.object_marker else [])
        else:
            goal = self.say(clause.patient)
        no = self.say("not") if clause.negated else []
        if grammar.negation != "final":
            verb = no + verb if grammar.negation == "before" else verb + no
        parts = {"S": subject, "V": verb, "O": goal}
        core = [word for role in grammar.order for word in parts[role]]
        place = self.place(clause.place) if clause.place else []
        whole = place + core if clause.fronted else core + place
        return whole + no if grammar.negation == "final" else whole

    def sentence(self, clauses: Sequence[Clause], link: str = "and") -> Words:
        """Clauses joined by a conjunction, which stands before each but the first."""
        words = self.clause(clauses[0])
        for clause in clauses[1:]:
            words = words + self.say(link) + self.clause(clause)
        return words

    def concession(self, main: Clause, concessive: Clause, first: bool) -> Words:
        """A main clause and a clause with "although" before it or after it."""
        side = self.say("although") + self.clause(concessive)
        return side + self.clause(main) if first else self.clause(main) + side


def _name_sounds(part: str, seed: int) -> str:
    rng = Random(f"name/{seed}/{part}")
    ending = "n" if part.startswith("first") else "r"
    return "".join(rng.choice("ptkbdgmnslr") + rng.choice("aeiou") for _ in range(3)) + ending


def text(words: Words) -> str:
    """The words as one string."""
    return " ".join(word for word, _ in words)
