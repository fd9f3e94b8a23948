"""Topics and plain phrases from which the writing families build prompts and oracle answers."""

from random import Random

# split -> topic -> key words that an answer about it may have to hold
TOPICS = {
    "train": {
        "rain": ("cloud", "river", "garden"),
        "bread": ("flour", "oven", "table"),
        "trains": ("station", "ticket", "window"),
        "music": ("song", "piano", "evening"),
        "winter": ("snow", "coat", "fire"),
        "the sea": ("wave", "boat", "harbour"),
        "books": ("page", "library", "story"),
        "a market": ("fruit", "price", "crowd"),
    },
    "heldout": {
        "the moon": ("night", "light", "shadow"),
        "bees": ("honey", "flower", "summer"),
        "bicycles": ("wheel", "road", "hill"),
        "an old house": ("door", "roof", "stairs"),
    },
}

SUBJECTS = (
    "the old man",
    "my sister",
    "a small child",
    "our neighbour",
    "the teacher",
    "a quiet dog",
    "the young baker",
    "her brother",
    "a tired driver",
    "the farmer",
)
VERBS = (
    "sees",
    "likes",
    "finds",
    "keeps",
    "carries",
    "remembers",
    "paints",
    "follows",
    "watches",
    "mentions",
)
THINGS = (
    "the red stone",
    "a long letter",
    "two green bottles",
    "an empty box",
    "the narrow path",
    "a warm blanket",
    "the wooden chair",
    "some fresh paper",
    "a broken clock",
    "the high wall",
)
TIMES = (
    "in the morning",
    "before lunch",
    "after school",
    "on most days",
    "near the bridge",
    "with great care",
    "for a while",
    "without a word",
    "at the corner",
    "during the break",
)
FILLERS = (
    "today",
    "again",
    "outside",
    "slowly",
    "together",
    "early",
    "nearby",
    "happily",
    "indoors",
    "quietly",
)


def plain_words(rng: Random, count: int) -> list[str]:
    """`count` lower-case words of prose without punctuation and with few repeats."""
    words: list[str] = []
    while len(words) < count:
        parts = (rng.choice(SUBJECTS), rng.choice(VERBS), rng.choice(THINGS), rng.choice(TIMES))
        words += " ".join((*parts, rng.choice(FILLERS))).split()
    return words[:count]


def sentence(rng: Random) -> str:
    """One plain sentence without commas."""
    text = " ".join(rng.choice(p) for p in (SUBJECTS, VERBS, THINGS, TIMES))
    return text[0].upper() + text[1:] + "."


def vocabulary() -> list[str]:
    """All words of this file, for random policies."""
    groups = (SUBJECTS, VERBS, THINGS, TIMES, FILLERS)
    topics = [w for part in TOPICS.values() for topic, rest in part.items() for w in (topic, *rest)]
    phrases = [phrase for group in (*groups, topics) for phrase in group]
    return sorted({word for phrase in phrases for word in phrase.split()})
